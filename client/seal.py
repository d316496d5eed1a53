"""From an update to the words that may leave: the one place where values become words.

Covers: every value that leaves is a coordinate of the sealed vector; a block that was not released under
differential privacy, when the plan has it, is refused; nothing that is not finite leaves.
Does not cover: hiding the words from who adds them; `partsong.client.secure_sum.door` masks them.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from partsong.client.dp.discrete import discrete_gaussian
from partsong.common.errors import Refused
from partsong.common.plan import LOSS, UPDATE, Plan, rotation_seed
from partsong.common.secure_sum import noised
from partsong.common.secure_sum.fixed_point import encode
from partsong.common.secure_sum.rotation import FloatVec

_ACCOUNTED = {UPDATE, LOSS}
"""Blocks with an accounting event of their own: the noised gradient's descendants, and the noised loss."""


def _share(count: int, scale: int) -> NDArray[np.int64]:
    return discrete_gaussian(count, scale=scale)


def seal(blocks: Mapping[str, FloatVec], plan: Plan, *, number: int, rng: np.random.Generator) -> NDArray[np.uint64]:
    """Clip, rotate, round and pack what a query asked for.

    Guarantees:
        - the result has exactly the round's number of words and adds up to `plan.encoding.max_sites` others;
        - what was DP before stays DP: everything here is post-processing with public constants;
        - under noise on the sum the values are exact, and this site's share of the noise is drawn here, from the
          operating system's randomness, for these words alone.
    Args:
        blocks: for each block of the round its values.
        plan: the accepted plan.
        number: of the round.
        rng: of the stochastic rounding; concerns precision, not secrecy.
    Raises:
        Refused: a block without an accounting event, in a plan with differential privacy.
        NotFinite: a value is NaN or infinite. In both cases nothing left the site.
    """
    if plan.dp is not None and (loose := sorted(set(blocks) - _ACCOUNTED)):
        raise Refused(
            "unaccounted_release",
            reason=f"block {loose[0]!r} has no accounting event",
            remedy="give it its own clip, noise and event, or leave it out",
        )
    seed = rotation_seed(plan.sha256, number=number)
    if plan.on_sum is not None:
        return noised.encode(blocks, plan.noised(number), rotation_seed=seed, rng=rng, noise=_share)
    return encode(blocks, plan.encoding_of(number), rotation_seed=seed, rng=rng)
