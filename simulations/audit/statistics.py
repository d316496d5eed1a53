"""Distribution functions that the audit needs, in float64 and exact to rounding in the tails that it looks at."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

_NORMAL = NormalDist()
_BISECTIONS = 60
"""Halvings of [0, 1]: below float64's resolution at any p that matters."""


def normal_below(x: float) -> float:
    """Give P[N(0, 1) <= x], also far out on the left."""
    return 0.5 * math.erfc(-x / math.sqrt(2))


def normal_quantile(p: float) -> float:
    """Invert `normal_below`; infinite at 0 and 1."""
    if p <= 0:
        return -math.inf
    return math.inf if p >= 1 else _NORMAL.inv_cdf(p)


def binomial_tails(trials: int, chance: float) -> NDArray[np.float64]:
    """Give P[Binomial(trials, chance) >= v] for v = 0 ... trials + 1.

    Args:
        trials: n >= 0.
        chance: in [0, 1].
    """
    tails = np.zeros(trials + 2)
    if chance >= 1:
        tails[: trials + 1] = 1.0
        return tails
    if chance <= 0:
        tails[0] = 1.0
        return tails
    counts = np.arange(trials + 1)
    log_factorial = np.concatenate(([0.0], np.cumsum(np.log(np.arange(1, trials + 1)))))
    log_choose = log_factorial[-1] - log_factorial - log_factorial[::-1]
    mass = np.exp(log_choose + counts * math.log(chance) + (trials - counts) * math.log1p(-chance))
    tails[: trials + 1] = np.minimum(np.cumsum(mass[::-1])[::-1], 1.0)  # smallest first: the tail keeps its digits
    tails[0] = 1.0
    return tails


def chance_at_least(*, successes: int, trials: int, alpha: float) -> float:
    """Bound a probability from below by its observed frequency.

    Guarantees: for every true p, the bound is above p with probability at most `alpha`.
    Args:
        successes: 0 to `trials`.
        trials: independent, or each of chance at most p whatever came before it.
        alpha: one-sided error, (0, 1).
    Source: Clopper & Pearson 1934.
    """
    if successes == 0:
        return 0.0
    low, high = 0.0, 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if binomial_tails(trials, middle)[successes] <= alpha else (low, middle)
    return low


def chance_at_most(*, successes: int, trials: int, alpha: float) -> float:
    """Bound a probability from above: the mirror image of `chance_at_least`."""
    return 1.0 - chance_at_least(successes=trials - successes, trials=trials, alpha=alpha)


def scale_at_most(*, sum_of_squares: float, count: int, alpha: float) -> float:
    """Bound the standard deviation of independent centred normal values from above.

    Guarantees: for a true deviation s, the bound is below s with probability at most `alpha`, to within the 1e-3 of
        itself by which the approximation is off at the counts in use (>= 1000).
    Args:
        sum_of_squares: of the values.
        count: how many, >= 1.
        alpha: (0, 1).
    Source: Wilson & Hilferty 1931 for the quantile of the chi-square distribution.
    """
    spread = 2 / (9 * count)
    quantile = count * max(1 - spread + normal_quantile(alpha) * math.sqrt(spread), 0.0) ** 3
    return math.inf if quantile == 0 else math.sqrt(sum_of_squares / quantile)


@dataclass(frozen=True, kw_only=True, slots=True)
class Noise:
    """Values that should be independent and normal, of the promised deviation."""

    squares: float
    """Sum of squares in units of the promised deviation."""
    count: int
    """How many values that sum has."""

    def at_most(self, *, alpha: float) -> float:
        """Bound noise deviation / promised deviation from above, if the noise is independent and normal."""
        return scale_at_most(sum_of_squares=self.squares, count=self.count, alpha=alpha)
