"""How far a local round is, between two of its steps: enough to go on from there, and nothing else.

Shape letter: P adapter parameters that the round trains.

Covers: everything here follows from what the steps so far have released, but for three counts. There is no place for a
    gradient before its noise, for noise, for a seed, for the number of a record or for what one record gave.
Does not cover: plans without differential privacy, which have no noise; there all of it is as telling as an update.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from partsong.common.adapters.adapter import FloatVec
from partsong.common.privacy.accounting import StepEvents


@dataclass(frozen=True, kw_only=True, slots=True)
class SoFar:
    """Sums over the steps that were taken."""

    step: int = 0
    """Steps taken."""
    loss_sum: float = 0.0
    """Of the losses that the steps have released, each times its weight."""
    weight_sum: int = 0
    """Of those weights."""
    visits: int = 0
    """Records drawn, with repetition. Local."""
    tokens: int = 0
    """Tokens of those records. Local."""
    nonfinite: int = 0
    """Units that counted as zero. Local."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Halfway:
    """A local round after one of its steps: noise was added, the step was taken."""

    so_far: SoFar
    adapter_P: FloatVec
    """The adapter now [weight units]."""
    slots: tuple[tuple[str, FloatVec], ...] = ()
    """What the local optimizer remembers, each (P,), by its name in torch."""
    events: tuple[StepEvents, ...] = ()
    """What the accountant recorded at these steps; empty without privacy."""


class Bookmark(Protocol):
    """Where a local round is noted, so that another process can go on with it."""

    def read(self) -> Halfway | None:
        """Give what an earlier process has noted; None: begin at the first step."""
        ...

    def put(self, take: Callable[[], Halfway]) -> None:
        """Note where the round is.

        Args:
            take: makes the note; not called where noting would cost too much now.
        Raises:
            TryAgain: no room on the disk; the last note stands.
        """
        ...


class NoBookmark:
    """Nothing is noted: a round that breaks off is lost."""

    def read(self) -> Halfway | None:
        """There is none."""
        return None

    def put(self, take: Callable[[], Halfway]) -> None:
        """Let it be."""
