"""Accounting agrees with printed tables, with Opacus, and with itself."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from partsong.common.errors import Refused
from partsong.common.privacy import accounting
from partsong.common.privacy.accounting import StepEvents, epsilon, joint_multiplier, largest_batch
from partsong.common.privacy.calibration import CALIBRATION_SLACK, calibrate, replan

# (sampling rate, steps, noise multiplier, delta) -> RDP and PLD epsilon, as printed in the design's table
TABLE = [
    ((64 / 1000, 156, 1.0, 5e-4), 4.640, 3.966),
    ((64 / 1000, 156, 2.0, 5e-4), 1.474, 1.279),
    ((128 / 2000, 312, 1.0, 2.5e-4), 7.008, 6.167),
    ((256 / 5000, 195, 0.8, 1e-4), 7.581, 6.552),
    ((512 / 10000, 195, 1.0, 1e-5), 5.438, 4.828),
    ((512 / 10000, 195, 0.7, 1e-5), 12.10, 10.67),
    ((256 / 60000, 3515, 1.1, 1e-5), 1.281, 1.134),
    ((2000 / 100000, 150, 0.5, 1e-5), 13.05, 11.04),
    ((50 / 500, 30, 1.5, 1e-3), 1.503, 1.233),
    ((64 / 2000, 31, 0.6, 2.5e-4), 5.185, 3.964),
]


def events(rate: float, steps: int, noise: float) -> StepEvents:
    return StepEvents(sampling_rate=rate, noise_multiplier=noise, steps=steps)


@pytest.mark.parametrize(("setting", "rdp", "pld"), TABLE)
def test_both_accountants_reproduce_the_printed_table(setting: tuple, rdp: float, pld: float) -> None:
    """PLD to its last printed digit, RDP to half a percent (the two libraries take different orders)."""
    rate, steps, noise, delta = setting

    spend = epsilon([events(rate, steps, noise)], delta=delta)
    fallback = accounting._rdp_epsilon([events(rate, steps, noise)], delta=delta)

    assert spend.accountant == "pld"
    assert spend.epsilon == pytest.approx(pld, abs=0.00051 if pld < 10 else 0.0061)
    assert fallback == pytest.approx(rdp, rel=5e-3)


def test_one_plain_gaussian_agrees_with_the_closed_form() -> None:
    """Without subsampling, delta(epsilon) of Balle & Wang 2018 gives the delta that was asked for."""
    noise, delta = 1.3, 1e-5

    value = epsilon([events(1.0, 1, noise)], delta=delta).epsilon

    a, b = 1 / (2 * noise), value * noise
    assert stats.norm.cdf(a - b) - math.exp(value) * stats.norm.cdf(-a - b) == pytest.approx(delta, rel=1e-2)


def test_rates_that_change_compose_by_segment() -> None:
    """Half the steps at a lower rate cost less than all at the higher, by the printed amount."""
    mixed = epsilon([events(0.05, 200, 1.0), events(0.04, 200, 1.0)], delta=1e-4).epsilon
    whole = epsilon([events(0.05, 400, 1.0)], delta=1e-4).epsilon

    assert (round(mixed, 3), round(whole, 3)) == (5.131, 5.735)


def test_equal_segments_are_one_segment() -> None:
    """The order and the cutting of a history do not matter."""
    cut = [events(0.05, 3, 1.0), events(0.02, 5, 2.0), events(0.05, 7, 1.0)]

    assert epsilon(cut, delta=1e-5) == epsilon([events(0.05, 10, 1.0), events(0.02, 5, 2.0)], delta=1e-5)


@pytest.mark.parametrize("records", [60])
def test_the_cut_at_a_site_is_free(records: int) -> None:
    """What the site computes for itself stays within the slack that calibration leaves."""
    plan = events(0.05, 100, 1.0)

    at_site = epsilon([plan.at_site(records=records)], delta=1e-5).epsilon

    free = epsilon([plan], delta=1e-5).epsilon
    assert free - 1e-9 <= at_site <= free * (1 + CALIBRATION_SLACK)


def test_five_deviations_would_not_be_free() -> None:
    """The control: the same site with a cap at mean + 5 deviations exceeds the slack a hundredfold."""
    cut = dataclasses.replace(events(0.05, 100, 1.0), records=100, max_batch=math.ceil(5 + 5 * math.sqrt(4.75)))

    assert epsilon([cut], delta=1e-5).epsilon > 3.5021 * (1 + 100 * CALIBRATION_SLACK)


@given(records=st.integers(1, 10**6), rate=st.floats(1e-6, 1.0))
def test_the_largest_batch_is_possible_and_hardly_ever_reached(records: int, rate: float) -> None:
    """Between 1 and all records, and a sample exceeds it less than once in 100,000 steps, however small."""
    cap = largest_batch(records=records, sampling_rate=rate)

    assert 1 <= cap <= records
    assert stats.binom.sf(cap, records, rate) < 1e-5


@pytest.mark.parametrize(("budget", "printed"), [(1.0, 3.327), (3.0, 1.454), (8.0, 0.853)])
def test_calibration_reproduces_the_printed_noise(budget: float, printed: float) -> None:
    """20 rounds of 20 steps at q=.05, delta 1e-4; rounding up on the grid moves the last digit by at most one."""
    noise = calibrate(sampling_rate=0.05, steps=400, epsilon=budget, delta=1e-4, loss_noise_ratio=None)

    assert noise == pytest.approx(printed, abs=1.1e-3)


@settings(max_examples=3, deadline=None)
@given(
    rate=st.floats(0.005, 0.5),
    steps=st.integers(1, 300),
    budget=st.floats(0.5, 10),
    ratio=st.one_of(st.none(), st.floats(1, 8)),
)
def test_calibrated_noise_keeps_the_budget_and_a_little_less_does_not(
    rate: float, steps: int, budget: float, ratio: float | None
) -> None:
    """The result is the smallest: checked with the finer grid, from both sides."""
    noise = calibrate(sampling_rate=rate, steps=steps, epsilon=budget, delta=1e-5, loss_noise_ratio=ratio)

    def cost(gradient: float) -> float:
        joint = gradient if ratio is None else joint_multiplier(gradient, ratio * gradient)
        return epsilon([events(rate, steps, joint)], delta=1e-5).epsilon

    assert cost(noise) <= budget
    assert noise == accounting.LOWEST_NOISE or cost(0.99 * noise) > budget * (1 - 1e-3)


def test_a_second_plan_uses_what_the_first_left_over() -> None:
    """After 200 of 400 steps the rate falls to .04: the printed noise for the rest keeps epsilon 3."""
    history = [events(0.05, 200, 1.454)]

    noise = replan(history=history, sampling_rate=0.04, steps=200, epsilon=3.0, delta=1e-4, loss_noise_ratio=None)

    assert noise == pytest.approx(1.241, abs=1.1e-3)
    assert epsilon([*history, events(0.04, 200, noise)], delta=1e-4).epsilon <= 3.0


def test_an_empty_budget_is_refused() -> None:
    """No noise mends a budget that is already exceeded."""
    with pytest.raises(Refused, match="budget_spent"):
        replan(
            history=[events(0.5, 100, 0.7)],
            sampling_rate=0.01,
            steps=1,
            epsilon=1.0,
            delta=1e-5,
            loss_noise_ratio=None,
        )


@given(gradient=st.floats(0.1, 100), loss=st.floats(0.1, 100))
def test_two_releases_cost_as_much_as_their_joint_one(gradient: float, loss: float) -> None:
    """Zero-concentrated DP adds up: 1/(2 sigma^2) of the joint mechanism is the sum of the two."""
    joint = joint_multiplier(gradient, loss)

    assert 1 / (2 * joint**2) == pytest.approx(1 / (2 * gradient**2) + 1 / (2 * loss**2))
    assert joint < min(gradient, loss)


def test_joint_release_agrees_with_composing_two_plain_gaussians() -> None:
    """Without subsampling the accountant itself confirms the formula."""
    apart = epsilon([events(1.0, 1, 2.0), events(1.0, 1, 8.0)], delta=1e-5).epsilon

    assert epsilon([events(1.0, 1, joint_multiplier(2.0, 8.0))], delta=1e-5).epsilon == pytest.approx(apart, abs=1e-3)


@settings(max_examples=10, deadline=None)
@given(rate=st.floats(0.01, 0.5), noise=st.floats(0.6, 5), steps=st.integers(1, 50))
def test_cost_grows_with_every_step_and_rate_and_falls_with_noise(rate: float, noise: float, steps: int) -> None:
    """Epsilon is monotone in each of its three arguments."""

    def cost(rate: float, steps: int, noise: float) -> float:
        value = accounting._pld_epsilon([events(rate, steps, noise)], delta=1e-5, grid=accounting.COARSE_GRID)
        assert value is not None
        return value

    here = cost(rate, steps, noise)

    assert cost(rate, steps + 1, noise) >= here
    assert cost(rate / 2, steps, noise) <= here
    assert cost(rate, steps, noise * 1.1) <= here


def test_nothing_done_costs_nothing() -> None:
    """An empty history is free at any delta."""
    assert epsilon([], delta=1e-9).epsilon == 0.0


def test_where_pld_gives_up_rdp_answers_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fallback is a bound too, and its name stands in the result."""

    def give_up(*_: object, **__: object) -> object:
        raise MemoryError

    tight = epsilon([events(0.05, 10, 1.0)], delta=1e-5).epsilon
    monkeypatch.setattr(accounting, "_pld", give_up)
    accounting._spend_of.cache_clear()

    spend = epsilon([events(0.05, 10, 1.0)], delta=1e-5)

    accounting._spend_of.cache_clear()
    assert spend.accountant == "rdp"
    assert spend.epsilon >= tight


def test_a_cut_sample_without_pld_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """RDP has no bound for it, so there is no number rather than a wrong one."""
    monkeypatch.setattr(accounting, "_pld_epsilon", lambda *_, **__: None)
    accounting._spend_of.cache_clear()

    with pytest.raises(Refused, match="unaccountable_release"):
        epsilon([events(0.05, 10, 1.0).at_site(records=100)], delta=1e-5)


@pytest.mark.parametrize(
    "wrong",
    [
        {"sampling_rate": 0.0},
        {"sampling_rate": 1.1},
        {"noise_multiplier": 0.0},
        {"noise_multiplier": math.inf},
        {"noise_multiplier": math.nan},
        {"steps": 0},
        {"max_batch": 3},
        {"records": 3},
        {"records": 3, "max_batch": 0},
    ],
)
def test_events_that_cannot_be_are_refused(wrong: dict) -> None:
    """An event is checked where it is made."""
    with pytest.raises(ValueError, match=next(iter(wrong))):
        StepEvents(**({"sampling_rate": 0.1, "noise_multiplier": 1.0, "steps": 1} | wrong))


@pytest.mark.parametrize("delta", [0.0, 1.0, -1.0, np.nan])
def test_a_delta_outside_of_its_range_is_refused(delta: float) -> None:
    """Delta is a probability of failure, neither 0 nor 1."""
    with pytest.raises(ValueError, match="delta"):
        epsilon([events(0.1, 1, 1.0)], delta=delta)
