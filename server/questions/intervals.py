"""Intervals for proportions and means of noised counts: honest at any number of units, also a small one.

Covers: noise of known deviation on every count, and the chance that picked the units. The error is divided in two: with
half of it the true counts lie in a box around the noised ones; with the other half the bound of a sample of the worst
counts in that box holds. Nothing is taken to be normal but the noise, which is.
Does not cover: units that are not drawn independently from one population. Sites whose records differ are one
population only in the sense that their records together are; a further site may be outside of the interval.

Source: Hoeffding 1963, theorem 1, inequality (2.1), for sums of values between 0 and 1 of whatever distribution;
McDiarmid 1989, lemma 1.2, for a function of independent draws none of which moves it far.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
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


def mean_distance(gaps: Sequence[Noised], units: Noised, *, error: float = 1 - LEVEL) -> Estimate:
    """Estimate the sum over B bins of |g_b|, where g_b is the mean of a value between -1 and 1 that a unit puts into
    one bin of its choice: the calibration error, with confidence minus hit as that value.

    Both the noise and the draw pull the plain estimate up, because |.| is convex. In terms of the sums G_b = n g_b:

    - noise of deviation s on each: the noised sum of |.| has a mean between the true one and B s sqrt(2 / pi) above it,
      and, being sqrt(B)-Lipschitz, is off its mean by more than s sqrt(2 B ln(1 / e)) with probability at most e;
    - the draw: its mean is between the population's value and sqrt(B / n) above it (Jensen; the variances of the bins
      add up to at most 1 / n, Cauchy and Schwarz), and swapping a unit moves it by 2 / n at most, so that it is off its
      mean by more than sqrt(2 ln(1 / e) / n) with probability at most e (McDiarmid).

    Guarantees: the interval misses the population's value with probability at most `error`.
    Args:
        gaps: of each bin, the sum of the values; all with the same noise, which is independent.
        units: number of units, of all bins.
        error: (0, 1).
    """
    bins, each = len(gaps), math.log(8 / error)  # of the error: 1/4 for the units, 2/8 for the noise, 2/4 for the draw
    sd, slack = max(gap.sd for gap in gaps), math.fsum(gap.slack for gap in gaps)
    found = math.fsum(abs(gap.value) for gap in gaps)
    swing = sd * math.sqrt(2 * bins * each)
    low_sum, high_sum = found - slack - swing - bins * sd * math.sqrt(2 / math.pi), found + slack + swing
    low_units, high_units = (max(0.0, end) for end in units.between(error / 4))
    drawn = math.sqrt(2 * math.log(4 / error))
    # Where the lower end is above 0 at all it falls with the number of units, and so does the upper one.
    low = low_sum / high_units - (drawn + math.sqrt(bins)) / math.sqrt(high_units) if high_units >= 1 else 0.0
    high = high_sum / low_units + drawn / math.sqrt(low_units) if low_units >= 1 else 1.0
    value = min(found / units.value, 1.0) if units.value > max(units.sd, 0.5) else None
    return Estimate(value=value, low=min(max(low, 0.0), 1.0), high=min(max(high, 0.0), 1.0))


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
