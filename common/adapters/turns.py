"""Which part of an adapter a round trains and sends: all of it, one factor, or one block of columns.

Shape letters: P trained parameters of the run, Q of them in one turn.

A turn is chosen by the tensors' names, so that the plan, the sites and whoever checks a sum agree on every coordinate.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from partsong.common.adapters.adapter import AdapterLayout, TensorSpec

Float = TypeVar("Float", bound=np.floating[Any])

_PART = re.compile(r"A|B|B\.(0|[1-9][0-9]{0,3})")
_LARGEST = 1e15
"""As in `plan`: far inside float32's range."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """What one kind of round trains. Rounds of a kind have one shape, and it stands in the plan."""

    trains: str
    """`A`, `B`, or `B.` and the number of a block of columns. What is not LoRA (a head) is trained with B."""
    learning_rate: float
    """Times the rate of the plan."""
    clip_norm: float
    """Times the L2 bound of one unit's gradient. The noise is in proportion, so it costs what any other clip costs."""
    update_clip: float
    """L2 bound of a site's sealed update in such a round."""

    def __post_init__(self) -> None:
        if not _PART.fullmatch(self.trains):
            raise ValueError("trains A, B or B. and a number")
        if not all(0 < value <= _LARGEST for value in (self.learning_rate, self.clip_norm, self.update_clip)):
            raise ValueError("learning_rate, clip_norm and update_clip above 0")

    def takes(self, name: str) -> bool:
        """Whether a trained tensor of this name is part of the turn."""
        is_a = ".lora_A." in name
        if self.trains == "A":
            return is_a
        block = self.trains.partition(".")[2]
        other = bool(block) and ".lora_B." in name and f".lora_B.blocks.{block}." not in name
        return not is_a and not other


def specs_of(layout: AdapterLayout, turn: Turn | None) -> tuple[TensorSpec, ...]:
    """List the tensors of a turn, in the order of the layout; None: every tensor that is ever trained."""
    return layout.trained if turn is None else tuple(spec for spec in layout.trained if turn.takes(spec.name))


def gather(vector_P: NDArray[Float], layout: AdapterLayout, turn: Turn | None) -> NDArray[Float]:
    """Take a turn's coordinates out of the trained part.

    Args:
        vector_P: (P,) of any float type.
        layout: of the adapter.
        turn: whose; None: all.
    Returns:
        (Q,) a copy.
    """
    return vector_P[_mask(layout, turn)]


def replaced(
    vector_P: NDArray[Float], part_Q: NDArray[Float], layout: AdapterLayout, turn: Turn | None
) -> NDArray[Float]:
    """Give the trained part with a turn's coordinates set to others; `gather` of the result is `part_Q`.

    Args:
        vector_P: (P,) before; stays as it is.
        part_Q: (Q,) in the order of `gather`.
        layout: of the adapter.
        turn: whose; None: all.
    """
    changed = vector_P.copy()
    changed[_mask(layout, turn)] = part_Q
    return changed


def _mask(layout: AdapterLayout, turn: Turn | None) -> NDArray[np.bool_]:
    taken = {spec.name for spec in specs_of(layout, turn)}
    sizes, inside = [s.size for s in layout.trained], [s.name in taken for s in layout.trained]
    return np.repeat(np.array(inside, bool), sizes)
