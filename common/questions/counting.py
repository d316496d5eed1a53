"""Votes of records and what their sum decides; terms and limits are those of `partsong.common.questions.vote`.

N records, one for each unit.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from partsong.common.questions.vote import Vote

Losses = NDArray[np.float64]


def count(vote: Vote, before_N: Losses, after_N: Losses) -> float:
    """Add up the votes of a site, without noise.

    Guarantees: one record more or less moves the result by at most 1: a vote lies between -1 and 1, and cutting a
        sum to a fixed range brings two sums no further apart. A loss that is not finite under the new adapter
        alone is a whole vote against it; one that is not finite under the old one is no vote.
    Args:
        vote: terms of the plan.
        before_N: (N,) loss of each record under the adapter before the round [nats].
        after_N: (N,) under the one after it.
    """
    alive_N = np.isfinite(before_N)
    before_N, after_N = before_N[alive_N], after_N[alive_N]
    after_N = np.where(np.isfinite(after_N), after_N, np.inf)
    vote_N = np.clip((before_N - after_N + vote.margin) / vote.scale, -1.0, 1.0)
    return float(np.clip(vote_N.sum(), -vote.most_votes, vote.most_votes))


def is_kept(mean_1: NDArray[np.float64]) -> bool:
    """Say what a vote decides: the new adapter is kept unless more is said against it than for it.

    Args:
        mean_1: (1,) mean of the sites' votes; their sum has the same sign.
    """
    return bool(mean_1[0] >= 0)
