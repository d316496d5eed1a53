"""Whether an opened sum is as short as the clips of its summands make it.

Covers: a site that seals more than its clip, as far as it shows in the sum: fields hold up to six clips of a rotated
block, and what takes the sum past the clips of all summands together is found by whoever has it. Coordinator and sites
come to the same answer, bit by bit, so no adapter is moved by such a sum anywhere.
Does not cover: a vector of its site's own choice inside the clip, or one whose excess the other vectors leave room for;
sums with noise of their own, which no clip bounds.

P values of a block, D coordinates that are packed.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from partsong.common.secure_sum.fixed_point import Block, Encoding, SumOutOfRange

_CHUNK = 1 << 16
_ROUNDING = 1e-3
"""Part of a clip for the rounding of floats on the way; measured below 1e-5."""


class SumTooLong(SumOutOfRange):
    """The sum is longer than vectors inside their clips can make it; it moves nothing."""


def require_short(sum_P: NDArray[np.float64], block: Block, encoding: Encoding, *, sites: int) -> None:
    """Accept the decoded sum of a block whose vectors have a bounded length, by returning.

    Args:
        sum_P: (P,) sum, not the mean.
        block: of the encoding; one that bounds each value, not the length, is accepted as it is.
        encoding: of the round.
        sites: summands.
    Raises:
        SumTooLong: it is longer than `sites` clips and the rounding of as many vectors.
    """
    if block.norm != "l2":
        return
    rounding = encoding.step(block) * math.sqrt(block.coordinates)
    most = sites * (block.clip * (1 + _ROUNDING) + rounding)
    if _squares(sum_P) > most**2:
        raise SumTooLong(f"block {block.name}: found a sum longer than the clips of {sites} sites; nothing was moved")


def _squares(sum_P: NDArray[np.float64]) -> float:
    """Add squares one after the other, the same on every machine; a sum in blocks of its own order is not."""
    total = 0.0
    for start in range(0, sum_P.size, _CHUNK):
        part = np.square(sum_P[start : start + _CHUNK])
        total += float(np.cumsum(part)[-1])
    return total
