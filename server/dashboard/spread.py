"""How far a released loss may lie from the one that noise and sampling hide."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

FEWEST = 8
"""Losses from which a spread is told; from fewer the estimate is off by half of itself too often."""
_DEVIATIONS = 2.0


def margin_of(losses: Sequence[float]) -> float | None:
    """Estimate two standard deviations of the losses of a run's rounds around their slow course.

    Guarantees:
        - noise of the mechanism and of sampling are both in it, since both differ from round to round;
        - a trend makes it wider, never narrower.
    Args:
        losses: of the rounds that have a sum, in their order.
    Returns:
        half the width of the interval [loss]; None: fewer than `FEWEST` losses.
    Source: von Neumann, Kent, Bellinson, Hart, The mean square successive difference, Ann. Math. Stat. 12 (1941),
        section 1: half the mean square of successive differences estimates the variance.
    """
    if len(losses) < FEWEST:
        return None
    squares = [(after - before) ** 2 for before, after in itertools.pairwise(losses)]
    return _DEVIATIONS * math.sqrt(math.fsum(squares) / len(squares) / 2)
