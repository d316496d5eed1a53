"""Choosing the best of several private candidates is charged: enough, and by two sources."""

import dataclasses
import math
from collections import Counter

import dp_accounting
import numpy as np
import pytest
from dp_accounting.rdp import rdp_privacy_accountant
from hypothesis import given, settings
from hypothesis import strategies as st

from partsong.common.errors import Refused
from partsong.common.privacy.accounting import RDP_ORDERS, StepEvents, epsilon
from partsong.common.privacy.selection import (
    MOST_RUNS,
    SELECTION_SHARE,
    Selection,
    draw_runs,
    epsilon_with_selections,
    runs_of,
)

DELTA = 1e-5
ORDERS = np.array(RDP_ORDERS, dtype=float)
SCORE = StepEvents(sampling_rate=1.0, noise_multiplier=4.0, steps=1)
TRAINING = StepEvents(sampling_rate=0.05, noise_multiplier=0.45, steps=2)
"""On the coarse grid, hence quick."""


def choice(mean: float = 5.0, law: str = "geometric", *, noise: float = 4.0) -> Selection:
    return Selection(candidate=(dataclasses.replace(SCORE, noise_multiplier=noise),), mean_runs=mean, law=law)


def charged(selection: Selection, *, delta: float = DELTA) -> float:
    return epsilon_with_selections([], [selection], delta=delta).epsilon


def by_theorem(rdp: np.ndarray, mean: float, *, law: str, delta: float) -> float:
    """The bound of Papernot & Steinke for one candidate's Renyi curve, written out: a second source.

    Theorem 2 (geometric, eta = 1) and theorem 6 (Poisson), over the orders that the product uses; then Renyi to
    (epsilon, delta) as in Canonne, Kamath & Steinke 2020, proposition 12.
    """
    if law == "geometric":
        shared = 2 * np.min((1 - 1 / ORDERS) * rdp + math.log(mean) / ORDERS)
        chosen = rdp + math.log(mean) / (ORDERS - 1) + shared
        chosen = np.minimum.accumulate(chosen[::-1])[::-1]  # Renyi divergences grow with the order
    else:
        level = np.log1p(1 / (ORDERS - 1))
        apart = np.array([_delta_of(rdp, e) for e in level])
        chosen = rdp + mean * apart + math.log(mean) / (ORDERS - 1)
    values = chosen + np.log1p(-1 / ORDERS) - (math.log(delta) + np.log(ORDERS)) / (ORDERS - 1)
    return max(0.0, float(values.min()))


def _delta_of(rdp: np.ndarray, level: float) -> float:
    """Delta at an epsilon by a Renyi curve: Canonne, Kamath & Steinke 2020, proposition 12, or by order 1."""
    by_order = (ORDERS - 1) * (rdp - level + np.log1p(-1 / ORDERS)) - np.log(ORDERS)
    by_first = 0.5 * np.log1p(-np.exp(-rdp))
    return float(np.exp(min(by_order.min(), by_first.min())))


def exact_delta(noise: float, mean: float, *, law: str, level: float) -> float:
    """Exact delta of releasing the largest of K noisy scores, by integration; the other exact source.

    The largest of K has distribution function G(F(x)), G the generating function of K. Scores are 0 and 1 on the two
    datasets; both directions.
    """
    x = np.linspace(-12 * noise, 12 * noise + 1, 200_001)

    def density(shift: float) -> np.ndarray:
        f = np.exp(-((x - shift) ** 2) / (2 * noise**2)) / (noise * math.sqrt(2 * math.pi))
        below = np.array(0.5 * (1 + np.vectorize(math.erf)((x - shift) / (noise * math.sqrt(2)))))
        slope = mean * np.exp(mean * (below - 1)) if law == "poisson" else 1 / mean / (1 - (1 - 1 / mean) * below) ** 2
        return f * slope

    p, q = density(0.0), density(1.0)
    return max(float(np.trapezoid(np.maximum(a - math.exp(level) * b, 0), x)) for a, b in ((p, q), (q, p)))


def test_the_worked_case() -> None:
    """Five candidates on average, noise 4, delta 1e-5: 2.06 against .93 for one and 2.26 for five that all come out."""
    alone, all_five = (epsilon([SCORE] * count, delta=DELTA).epsilon for count in (1, 5))

    assert charged(choice()) == pytest.approx(2.062, abs=1e-3)
    assert charged(choice(law="poisson")) == pytest.approx(1.850, abs=1e-3)
    assert alone == pytest.approx(0.926, abs=1e-3)
    assert all_five == pytest.approx(2.258, abs=1e-3)


@pytest.mark.parametrize("law", ["geometric", "poisson"])
@pytest.mark.parametrize(("noise", "mean"), [(4.0, 5.0), (2.0, 2.0), (8.0, 30.0), (1.0, 1.5)])
def test_the_charge_is_that_of_the_theorems_written_out(law: str, noise: float, mean: float) -> None:
    """One choice alone, bounded at its share of delta, costs at most that epsilon and hardly less."""
    bound = by_theorem(ORDERS / (2 * noise**2), mean, law=law, delta=SELECTION_SHARE * DELTA)

    got = charged(choice(mean, law, noise=noise))

    assert bound * 0.995 <= got <= bound + 2e-3


@pytest.mark.parametrize("law", ["geometric", "poisson"])
@pytest.mark.parametrize(("noise", "mean"), [(4.0, 5.0), (2.0, 10.0)])
def test_the_charge_covers_what_an_observer_can_tell_and_one_candidates_does_not(
    law: str, noise: float, mean: float
) -> None:
    """The exact delta of the largest score stays below at the charged epsilon; at one candidate's epsilon it does not."""
    selection = choice(mean, law, noise=noise)
    alone = epsilon(selection.candidate, delta=DELTA).epsilon

    assert exact_delta(noise, mean, law=law, level=charged(selection)) < DELTA
    assert exact_delta(noise, mean, law=law, level=alone) > 1.5 * DELTA


def test_more_candidates_less_noise_or_a_smaller_delta_cost_more() -> None:
    """Each in its direction."""
    assert charged(choice(2.0)) < charged(choice(5.0)) < charged(choice(50.0))
    assert charged(choice(noise=8.0)) < charged(choice(noise=4.0))
    assert charged(choice(), delta=1e-4) < charged(choice(), delta=1e-6)


def test_one_candidate_for_certain_costs_no_less_than_its_release() -> None:
    """A geometric law of mean 1 chooses nothing; the bound is a bound."""
    assert charged(choice(1.0)) >= epsilon([SCORE], delta=DELTA).epsilon


def test_a_choice_composes_with_what_was_spent_before() -> None:
    """More than either alone, at most the sum of both at half the delta each."""
    together = epsilon_with_selections([TRAINING], [choice()], delta=DELTA).epsilon

    parts = (epsilon([TRAINING], delta=DELTA).epsilon, charged(choice()))
    halves = epsilon([TRAINING], delta=DELTA / 2).epsilon + charged(choice(), delta=DELTA / 2)
    assert max(parts) < together <= halves
    assert epsilon_with_selections([TRAINING], [choice(), choice()], delta=DELTA).epsilon > together


def test_without_choices_nothing_changes() -> None:
    """The very spend of the accountant."""
    assert epsilon_with_selections([TRAINING], [], delta=DELTA) == epsilon([TRAINING], delta=DELTA)
    assert epsilon_with_selections([], [], delta=DELTA).epsilon == 0.0


def test_a_whole_training_is_a_candidate_too() -> None:
    """A sweep: each candidate trains and is scored; subsampling counts, by the library's own Renyi curve."""
    training = StepEvents(sampling_rate=0.01, noise_multiplier=2.0, steps=100)
    sweep = Selection(candidate=(training, SCORE), mean_runs=3.0)

    assert charged(choice(3.0)) < charged(sweep)
    accountant = rdp_privacy_accountant.RdpAccountant(orders=RDP_ORDERS)
    sampled = dp_accounting.PoissonSampledDpEvent(0.01, dp_accounting.GaussianDpEvent(2.0))
    accountant.compose(sampled, 100).compose(dp_accounting.GaussianDpEvent(4.0))
    bound = by_theorem(accountant._rdp, 3.0, law="geometric", delta=SELECTION_SHARE * DELTA)
    assert 0.98 * bound <= charged(sweep) <= bound + 2e-3


def test_samples_that_were_cut_are_refused_and_whole_ones_pass() -> None:
    """The accountant of choices does not know the cut; a score over all records has none."""
    cut = dataclasses.replace(TRAINING, noise_multiplier=2.0).at_site(records=1000)
    assert cut.max_batch is not None
    assert cut.max_batch < 1000

    with pytest.raises(Refused, match=r"unaccountable_release.*cut"):
        charged(Selection(candidate=(cut,), mean_runs=2.0))

    assert charged(Selection(candidate=(SCORE.at_site(records=1000),), mean_runs=5.0)) == charged(choice())


def test_what_no_accountant_bounds_is_refused() -> None:
    """Never infinity as a number."""
    with pytest.raises(Refused, match="unaccountable_release"):
        charged(Selection(candidate=(dataclasses.replace(SCORE, noise_multiplier=0.01),), mean_runs=2.0))


@pytest.mark.parametrize(
    "wrong", [{"candidate": ()}, {"mean_runs": 0.5}, {"mean_runs": float("nan")}, {"mean_runs": MOST_RUNS + 1.0}]
)
def test_a_choice_without_meaning_is_refused(wrong: dict) -> None:
    """No candidate, less than one on average, or more than anyone trains."""
    with pytest.raises(ValueError, match=r"candidate|mean_runs"):
        Selection(**{"candidate": (SCORE,), "mean_runs": 2.0} | wrong)


@pytest.mark.parametrize(("law", "mean"), [("geometric", 1.0), ("geometric", 4.0), ("poisson", 1.0), ("poisson", 30.0)])
def test_numbers_of_candidates_follow_the_law_that_is_charged(law: str, mean: float) -> None:
    """Over an even grid of uniform numbers, each count takes the share that the law gives it."""
    grid = 20_000
    counts = Counter(runs_of((i + 0.5) / grid, choice(mean, law)) for i in range(grid))

    def share(count: int) -> float:
        if law == "geometric":
            return (1 - 1 / mean) ** (count - 1) / mean if count else 0.0
        return math.exp(count * math.log(mean) - mean - math.lgamma(count + 1))

    assert all(abs(counts[count] / grid - share(count)) < 2 / grid for count in range(3 * math.ceil(mean)))
    other = "poisson" if law == "geometric" else "geometric"
    if mean > 1:  # control: the other law is told apart
        assert any(
            abs(runs_of((i + 0.5) / 100, choice(mean, other)) - runs_of((i + 0.5) / 100, choice(mean, law))) > 0
            for i in range(100)
        )


@settings(max_examples=100, deadline=None)
@given(
    uniform=st.floats(0, 1, exclude_min=True, exclude_max=True),
    mean=st.floats(1, 200),
    law=st.sampled_from(["geometric", "poisson"]),
)
def test_any_uniform_number_gives_a_count(uniform: float, mean: float, law: str) -> None:
    """No endless loop and no negative count, out to the last bit."""
    count = runs_of(uniform, choice(mean, law))

    assert count >= (law == "geometric")
    assert count < 1e5 + 1000 * mean


def test_draws_come_from_the_operating_system_and_differ() -> None:
    """A hundred draws of mean 1000 are not one number, and their mean is near."""
    draws = [draw_runs(choice(1000.0)) for _ in range(100)]

    assert len(set(draws)) > 50
    assert 400 < sum(draws) / 100 < 1800  # more than five standard deviations of the mean on each side
