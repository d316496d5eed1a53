"""Lower bounds against mechanisms whose epsilon is known in closed form."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from partsong.simulations.audit.estimators import (
    F_DP_SHARES,
    ONE_RUN_SHARES,
    Guesses,
    f_dp_any,
    f_dp_rejects,
    guess,
    largest_rejected,
    one_run_bound,
    one_run_p_value,
    several,
)
from partsong.simulations.audit.tradeoff import Curve, approximate, gaussian


def guesses(canaries: int, made: int, right: int) -> Guesses:
    return Guesses(canaries=canaries, made=made, right=right)


@st.composite
def any_guesses(draw: st.DrawFn) -> Guesses:
    made = draw(st.integers(1, 60))
    return guesses(made + draw(st.integers(0, 40)), made, draw(st.integers(0, made)))


def test_ten_right_guesses_at_fair_coins_have_chance_one_in_1024() -> None:
    """With epsilon 0 a guess is a coin; with epsilon ln 3 it is right three times in four."""
    assert one_run_p_value(guesses(10, 10, 10), epsilon=0.0, delta=0.0) == pytest.approx(2**-10)
    assert one_run_p_value(guesses(10, 10, 10), epsilon=math.log(3), delta=0.0) == pytest.approx(0.75**10)
    assert one_run_p_value(guesses(10, 10, 0), epsilon=0.0, delta=0.5) == 1.0


@settings(deadline=None)
@given(found=any_guesses(), epsilon=st.floats(0, 5), delta=st.floats(0, 0.01))
def test_the_p_value_is_the_theorem_written_out(found: Guesses, epsilon: float, delta: float) -> None:
    """The maximum over all i up to m, with scipy's tails."""
    tail = stats.binom(found.made, 1 / (1 + math.exp(-epsilon)))
    beta = tail.sf(found.right - 1)
    alpha = max(2 / i * (tail.sf(found.right - i - 1) - beta) for i in range(1, found.canaries + 1))

    p_value = one_run_p_value(found, epsilon=epsilon, delta=delta)

    assert p_value == pytest.approx(min(1.0, beta + found.canaries * alpha * delta), abs=1e-12)


@settings(deadline=None, max_examples=60)
@given(found=any_guesses(), epsilon=st.floats(0, 4), delta=st.floats(0, 0.01), alpha=st.floats(1e-4, 0.2))
def test_more_right_guesses_never_say_less(found: Guesses, epsilon: float, delta: float, alpha: float) -> None:
    """Both estimators, in the guesses and in the claim."""
    better = guesses(found.canaries, found.made, min(found.made, found.right + 1))
    weak, strong, rounding = gaussian(1 + epsilon), gaussian(epsilon), 1e-12

    p_value = one_run_p_value(found, epsilon=epsilon, delta=delta)

    assert one_run_p_value(better, epsilon=epsilon, delta=delta) <= p_value + rounding
    assert p_value <= one_run_p_value(found, epsilon=epsilon + 1, delta=delta) + rounding
    assert one_run_p_value(found, epsilon=epsilon, delta=0) <= p_value + rounding
    if f_dp_rejects(found, curve=strong, alpha=alpha):
        assert f_dp_rejects(better, curve=strong, alpha=alpha)
    if f_dp_rejects(found, curve=weak, alpha=alpha):
        assert f_dp_rejects(found, curve=strong, alpha=alpha)


def randomized_response(epsilon: float, canaries: int, alpha: float) -> tuple[float, float]:
    """Chance that the bound exceeds the truth, and the bound that is usual: exact, over all counts."""
    right = stats.binom(canaries, 1 / (1 + math.exp(-epsilon)))
    usual = round(right.mean())
    bound = one_run_bound([guesses(canaries, canaries, usual)], delta=0.0, alpha=alpha)
    above = usual
    while one_run_p_value(guesses(canaries, canaries, above), epsilon=epsilon, delta=0.0) > alpha:
        above += 1
    return float(right.sf(above - 1)), bound


@pytest.mark.parametrize("epsilon", [0.5, 2.0])
def test_randomized_response_is_never_overstated_beyond_the_error(epsilon: float) -> None:
    """The chance that the bound lies above the truth is at most alpha, and not far below it: the bound is not idle."""
    chance, _ = randomized_response(epsilon, 400, 0.05)

    assert 0.02 < chance <= 0.05


@pytest.mark.parametrize("epsilon", [0.5, 2.0])
def test_randomized_response_is_found_out_with_many_canaries(epsilon: float) -> None:
    """The one-run bound reaches the true epsilon, which shows that it is as good as it can be."""
    few, many = (randomized_response(epsilon, n, 0.001)[1] for n in (200, 20_000))

    assert few < many < epsilon
    assert many == pytest.approx(epsilon, abs=0.12)


def rejections(mu: float, curve: Curve, *, alpha: float, runs: int) -> int:
    """How many of some runs of a Gaussian mechanism with a coordinate for each canary are rejected under a curve."""
    random, count = np.random.default_rng(11), 0
    for _ in range(runs):
        included_M = random.random(500) < 0.5
        found = several(random.normal(size=500) + mu * included_M, included_M, shares=F_DP_SHARES)
        count += f_dp_any(found, curve=curve, alpha=alpha)
    return count


@pytest.mark.parametrize("mu", [1.0, 2.0])
def test_a_gaussian_mechanism_is_not_rejected_under_its_own_curve(mu: float) -> None:
    """Of 60 runs at most 5 % and chance; and nearly all under the curve of one that leaks a fifth: the test can fail."""
    assert rejections(mu, gaussian(mu), alpha=0.05, runs=60) <= 8  # more have chance 0.5 % at 5 %
    assert rejections(mu, gaussian(mu / 5), alpha=0.05, runs=60) > 55


@settings(deadline=None, max_examples=25)
@given(
    made=st.integers(2, 12),
    canaries=st.integers(0, 4),
    data=st.data(),
    alpha=st.sampled_from([0.3, 0.05, 0.004]),
    curve=st.sampled_from([gaussian(0.7), approximate(0.8, 0.0), approximate(0.3, 0.02)]),
)
def test_the_recursion_solves_the_linear_programme_of_the_theorem(
    made: int, canaries: int, data: st.DataObject, alpha: float, curve: Curve
) -> None:
    """A solver that searches all distributions of the number of right guesses finds the same answer."""
    right = data.draw(st.integers(1, made))
    m = made + canaries
    largest = largest_chance(m, made, right, curve)
    if abs(largest - alpha) < 1e-6:
        return

    assert f_dp_rejects(guesses(m, made, right), curve=curve, alpha=alpha) == (largest < alpha)


def largest_chance(m: int, made: int, right: int, curve: Curve) -> float:
    """Largest P[at least `right` right] over all distributions that obey the theorem for the sets {i, ..., made}."""
    counts = np.arange(made + 1)
    lines = []  # F(x) = 1 - f(x) is the least of these, as (slope, value at 0)
    for epsilon, delta in zip(curve.epsilons, curve.deltas, strict=True):
        steep = math.exp(epsilon)
        lines += [(steep, delta), (1 / steep, 1 - (1 - delta) / steep)]
    rows, limits = [], []
    for i in range(1, made + 1):
        upper = np.where(counts >= i, counts / m, 0.0)
        lower = np.where(counts >= i - 1, (made - counts) / m, 0.0)
        rows += [upper - slope * lower for slope, _ in lines]
        limits += [offset for _, offset in lines]
    solved = optimize.linprog(
        -(counts >= right).astype(float), A_ub=rows, b_ub=limits, A_eq=[np.ones(made + 1)], b_eq=[1.0], bounds=(0, 1)
    )
    return -float(solved.fun)


def test_the_number_of_guesses_does_not_depend_on_the_scores() -> None:
    """Half of them at each end, also where scores tie."""
    score_M = np.array([5.0, 1.0, 4.0, 2.0, 3.0, 3.0])
    included_M = np.array([True, False, True, True, False, False])

    assert guess(score_M, included_M, made=4) == guesses(6, 4, 3)
    assert guess(score_M, included_M, made=3).made == 3
    assert guess(np.zeros(6), included_M, made=4).made == 4
    assert [g.made for g in several(np.zeros(100), np.zeros(100, dtype=bool), shares=(0.05, 1.0))] == [5, 100]


def test_guesses_that_cannot_be_are_refused() -> None:
    """More right ones than guesses, more guesses than canaries."""
    with pytest.raises(ValueError, match="right <= made <= canaries"):
        guesses(10, 5, 6)
    with pytest.raises(ValueError, match="right <= made <= canaries"):
        guesses(10, 11, 6)


def test_chance_gives_no_bound_and_knowledge_gives_a_large_one() -> None:
    """Guessing proves nothing; knowing every coin of 1,000 proves much, but never more than some ln of the canaries."""
    by_chance, all_known = [guesses(1000, 1000, 500)], [guesses(1000, 1000, 1000)]

    assert one_run_bound(by_chance, delta=1e-5, alpha=1e-3) == 0.0
    assert 3 < one_run_bound(all_known, delta=1e-5, alpha=1e-3) < math.log(1000)
    assert not f_dp_any(by_chance, curve=gaussian(0.1), alpha=1e-3)
    assert f_dp_any(all_known, curve=gaussian(1.0), alpha=1e-3)


def test_the_f_dp_bound_is_stronger_where_the_curve_is_known() -> None:
    """The reason for having it: of a Gaussian mechanism it proves more than a pair of epsilon and delta can."""
    mu, delta, random = 1.0, 1e-5, np.random.default_rng(3)
    included_M = random.random(1000) < 0.5
    score_M = random.normal(size=1000) + mu * included_M
    plain = one_run_bound(several(score_M, included_M, shares=ONE_RUN_SHARES), delta=delta, alpha=0.05)
    found = several(score_M, included_M, shares=F_DP_SHARES)

    by_curve = largest_rejected(lambda m: f_dp_any(found, curve=gaussian(m), alpha=0.05), most=4.0)

    assert 0 < by_curve < mu
    assert _delta_of(by_curve, plain) > 2 * delta


def _delta_of(mu: float, epsilon: float) -> float:
    """Delta of a Gaussian mechanism at an epsilon."""
    return float(stats.norm.cdf(mu / 2 - epsilon / mu) - math.exp(epsilon) * stats.norm.cdf(-mu / 2 - epsilon / mu))
