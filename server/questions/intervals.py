"""Intervals for proportions and means of noised counts: honest at any number of units, also a small one.

Covers: noise of known deviation on every count, and the chance that picked the units. The error is divided in two: with
half of it the true counts lie in a box around the noised ones; with the other half the bound of a sample of the worst
counts in that box holds. Nothing is taken to be normal but the noise, which is.
Does not cover: units that are not drawn independently from one population. Sites whose records differ are one
population only in the sense that their records together are; a further site may be outside of the interval.

Source: Hoeffding 1963, theorem 1, inequality (2.1), for sums of values between 0 and 1 of whatever distribution.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

LEVEL = 0.95
"""Of every interval, each by itself."""
_BISECTIONS = 60
"""Halvings of [0, 1]: below float64's resolution at any proportion that matters."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Noised:
    """One number of an opened sum."""

    value: float
    sd: float
    """Of the noise, all sites' together; 0 without privacy terms."""
    slack: float
    """Bound of the error of fixed point."""

    def between(self, error: float) -> tuple[float, float]:
        """Give a range that misses the true sum with probability at most `error`."""
        reach = self.slack + (self.sd * -NormalDist().inv_cdf(error / 2) if self.sd else 0.0)
        return self.value - reach, self.value + reach


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A figure with its interval."""

    value: float | None
    """None: the counts are too small against their noise to say anything."""
    low: float
    high: float


def proportion(hits: Noised, units: Noised, *, error: float = 1 - LEVEL, scale: float = 1.0) -> Estimate:
    """Estimate the mean of a value between 0 and `scale` over the population that the units are of.

    Guarantees: the interval misses the mean with probability at most `error`.
    Args:
        hits: sum of the values, in units of `scale`.
        units: number of units.
        error: (0, 1).
        scale: largest value of one unit.
    """
    low_units, high_units = (max(0.0, end) for end in units.between(error / 4))
    low_hits, high_hits = (max(0.0, end) for end in hits.between(error / 4))
    # The interval reaches furthest down where hits are few and units many, and furthest up the other way round.
    low = _lowest(low_hits, high_units, error=error / 4)
    high = _highest(high_hits, low_units, error=error / 4)
    value = min(max(hits.value / units.value, 0.0), 1.0) * scale if units.value > max(units.sd, 0.5) else None
    return Estimate(value=value, low=low * scale, high=high * scale)


def count(noised: Noised, *, error: float = 1 - LEVEL) -> Estimate:
    """Estimate how many units there are at the sites of the sum; nothing was drawn, so noise is all there is."""
    low, high = noised.between(error)
    return Estimate(value=max(noised.value, 0.0), low=max(low, 0.0), high=max(high, 0.0))


def _lowest(hits: float, units: float, *, error: float) -> float:
    """Bound the mean from below, given `hits` of at most `units`."""
    if units < 1 or hits <= 0:
        return 0.0
    share = min(hits / units, 1.0)
    low, high = 0.0, share
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if units * _divergence(share, middle) > -math.log(error) else (low, middle)
    return low


def _highest(hits: float, units: float, *, error: float) -> float:
    return 1.0 if units < 1 or hits >= units else 1.0 - _lowest(units - hits, units, error=error)


def _divergence(share: float, mean: float) -> float:
    """Kullback-Leibler divergence of two coins."""
    if mean <= 0:
        return math.inf if share > 0 else 0.0
    found = 0.0 if share <= 0 else share * math.log(share / mean)
    return found + (0.0 if share >= 1 else (1 - share) * math.log((1 - share) / (1 - mean)))
