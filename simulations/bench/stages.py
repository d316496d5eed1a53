"""A benchmark as stages that are measured one after the other, and how far it is."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from partsong.simulations.bench.figures import Figure

_TELLING = 0.1
"""Part of the whole after which its time says more about this machine than the usual one could."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """One part of a benchmark."""

    what: str
    """It measures, for people."""
    usual_s: float
    """Roughly, on two shared cores: by how much one stage takes longer than another holds elsewhere too."""
    measure: Callable[[], Sequence[Figure]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Moment:
    """How far a benchmark is when a stage begins."""

    number: int
    """Of the stage, from 1."""
    of: int
    what: str
    elapsed_s: float
    left_s: float
    done: float
    """Part of the whole, 0 to 1."""


def in_turn(
    stages: Sequence[Stage], *, tell: Callable[[Moment], None], clock: Callable[[], float] = time.monotonic
) -> list[Figure]:
    """Measure one stage after the other.

    The time left is the usual one of the stages to come, made longer or shorter as those before were; what is not
    measured here, because a package or memory is missing, makes it too long.

    Args:
        stages: in their order.
        tell: called before each stage.
        clock: gives seconds that never run backwards.
    """
    began_s, figures = clock(), list[Figure]()
    whole_s = sum(stage.usual_s for stage in stages)
    done_s = 0.0
    for number, stage in enumerate(stages, start=1):
        elapsed_s = clock() - began_s
        pace = elapsed_s / done_s if done_s >= _TELLING * whole_s else 1.0
        left_s = pace * (whole_s - done_s)
        done = done_s / whole_s
        tell(Moment(number=number, of=len(stages), what=stage.what, elapsed_s=elapsed_s, left_s=left_s, done=done))
        figures += stage.measure()
        done_s += stage.usual_s
    return figures


def quiet(_moment: Moment) -> None:
    """Say nothing."""
