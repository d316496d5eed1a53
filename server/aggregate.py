"""The sum of sealed vectors, folded as they arrive.

Covers: exact addition in the ring; the number of summands is counted here, not taken from anybody's word.
Does not cover: hiding the summands from this process. Without masks the coordinator could read each vector it adds.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from partsong.common import wire
from partsong.common.fixed_point import Encoding, add_into, decode_sum
from partsong.common.plan import LOSS, UPDATE


@dataclass(frozen=True, kw_only=True, slots=True)
class Opened:
    """What a round's sum says."""

    mean_P: NDArray[np.float64]
    """Mean update over the sites of the sum."""
    loss: float
    """Mean released loss."""
    sites: int


@dataclass(kw_only=True, slots=True)
class Accumulator:
    """Running sum of one round."""

    encoding: Encoding
    sites: int = 0
    _total: NDArray[np.uint64] = field(init=False)

    def __post_init__(self) -> None:
        self._total = np.zeros(self.encoding.words(), np.uint64)

    def add(self, data: bytes) -> None:
        """Add one site's words.

        Raises:
            WireError: not exactly the agreed number of words; the sum is unchanged.
        """
        add_into(self._total, wire.words(data, size=self.encoding.words()))
        self.sites += 1

    def open(self, *, rotation_seed: bytes) -> Opened:
        """Decode the sum and divide by the number of summands."""
        sums = decode_sum(self._total, self.encoding, sites=self.sites, rotation_seed=rotation_seed)
        return Opened(mean_P=sums[UPDATE] / self.sites, loss=float(sums[LOSS][0]) / self.sites, sites=self.sites)
