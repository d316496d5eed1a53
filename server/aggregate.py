"""The sum of unmasked vectors, folded as they arrive. For plans without the secure sum.

Covers: exact addition in the ring; the number of summands is counted here, not taken from anybody's word.
Does not cover: hiding the summands from this process, which could read each vector it adds.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from partsong.common import wire
from partsong.common.plan import Plan
from partsong.common.secure_sum.fixed_point import add_into
from partsong.common.secure_sum.opened import Opened, read_sum


@dataclass(kw_only=True, slots=True)
class Accumulator:
    """Running sum of one round."""

    plan: Plan
    number: int
    """Of the round."""
    sites: int = 0
    _total: NDArray[np.uint64] = field(init=False)

    def __post_init__(self) -> None:
        self._total = np.zeros(self.plan.encoding_of(self.number).words(), np.uint64)

    def add(self, data: bytes) -> None:
        """Add one site's words.

        Raises:
            WireError: not exactly the agreed number of words; the sum is unchanged.
        """
        add_into(self._total, wire.words(data, size=self.plan.encoding_of(self.number).words()))
        self.sites += 1

    def open(self) -> Opened:
        """Decode the sum and divide by the number of summands."""
        return read_sum(self._total, self.plan, number=self.number, sites=self.sites)
