"""What a privacy claim says about tests: the largest power that a test of given level may have.

A claim is a set of (epsilon, delta) pairs that hold at once. Each pair bounds every test of "the record is in"
against "it is not" by two straight lines, and together the lines are the claim's trade-off function f: a test with
false alarms a misses at least f(a).

Source: Wasserman & Zhou 2010, theorem 2.4; Dong, Roth & Su 2022 (arXiv 1905.02383), proposition 2.5 and theorem 2.7.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from dp_accounting.pld import privacy_loss_distribution
from numpy.typing import NDArray

from partsong.common.privacy.accounting import COARSE_GRID, StepEvents
from partsong.simulations.audit.statistics import normal_below

_LINES = 400
"""Pairs of one curve. Fewer only weaken the claim: the maximum of fewer lines lies lower."""
_FARTHEST = 60.0
_NO_DELTA = 1e-12


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """A symmetric trade-off function as the maximum of straight lines."""

    epsilons: NDArray[np.float64]
    deltas: NDArray[np.float64]

    def misses(self, false_alarms: float) -> float:
        """Give f(a): no test with this rate of false alarms misses less often."""
        steep = 1 - self.deltas - np.exp(self.epsilons) * false_alarms
        flat = np.exp(-self.epsilons) * (1 - self.deltas - false_alarms)
        return max(float(steep.max()), float(flat.max()), 0.0)

    def power(self, false_alarms: float) -> float:
        """Give 1 - f(a): the largest rate of true alarms."""
        return 1.0 - self.misses(false_alarms)

    def cheapest(self, power: float) -> float:
        """Give the smallest rate of false alarms at which a test may have this power: f(1 - power)."""
        return self.misses(1.0 - power)


def approximate(epsilon: float, delta: float) -> Curve:
    """Give the curve of one (epsilon, delta) pair."""
    return Curve(np.array([epsilon]), np.array([delta]))


def gaussian(mu: float) -> Curve:
    """Give the curve of telling N(0, 1) from N(mu, 1).

    Args:
        mu: >= 0.
    Source: Dong, Roth & Su 2022, corollary 2.13.
    """
    if mu == 0:
        return approximate(0.0, 0.0)
    epsilons = np.linspace(0.0, min(_FARTHEST, mu * (mu / 2 + 8)), _LINES)
    deltas = [normal_below(mu / 2 - e / mu) - math.exp(e) * normal_below(-mu / 2 - e / mu) for e in epsilons]
    return Curve(epsilons, np.clip(deltas, 0.0, 1.0))


def of_events(events: Sequence[StepEvents]) -> Curve:
    """Give the curve that the accountant's privacy loss distribution stands for.

    Guarantees: nowhere above the true curve of the events (the distribution is rounded up), so rejecting it rejects
        the claim. A cut of the sample is left out: it moves a curve by less than the grid does.
    Args:
        events: at least one.
    """
    total: Any = privacy_loss_distribution.identity(value_discretization_interval=COARSE_GRID)
    for event in events:
        one = privacy_loss_distribution.from_gaussian_mechanism(
            event.noise_multiplier, sampling_prob=event.sampling_rate, value_discretization_interval=COARSE_GRID
        )
        total = total.compose(one.self_compose(event.steps))
    end = min(_FARTHEST, max(1.0, float(total.get_epsilon_for_delta(_NO_DELTA))))
    epsilons = np.linspace(0.0, end, _LINES)
    return Curve(epsilons, np.asarray(total.get_delta_for_epsilon(epsilons), dtype=np.float64))
