"""Plans whose noise the sites bring together: what they cost, under tolerance and without it."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import pytest
from dp_accounting.pld import privacy_loss_distribution as pld

from partsong.common.adapters.turns import Turn
from partsong.common.build import build, to_tree
from partsong.common.config import TrainingConfig
from partsong.common.errors import Refused
from partsong.common.plan import Plan
from partsong.common.privacy.accounting import StepEvents, epsilon, joint_multiplier, patient_epsilon
from partsong.common.privacy.selection import Selection, epsilon_with_selections
from partsong.common.privacy.terms import DpPlan, SumNoise
from partsong.common.secure_sum.noised import LONG_ROUNDING, OVERFLOW
from partsong.common.thresholds import Floors, default_tolerance, smallest_sum

Planned = Callable[..., Plan]
LOCKSTEP = TrainingConfig(steps_per_round=1, optim="sgd")


@pytest.fixture
def planned(make_plan: Callable[..., Plan], make_dp: Callable[..., DpPlan]) -> Planned:
    """A plan with noise on the sum of `sites`."""

    def make(*, sites: int = 5, minimum_sum: int = 4, colluders: int = 1, **changes: Any) -> Plan:
        noise = SumNoise(minimum_sum=minimum_sum, colluders=colluders, expected_batch=20.0)
        dp = make_dp(noise="discrete", on_sum=noise, **changes.pop("dp", {}))
        encoding = dataclasses.replace(make_plan().encoding, max_sites=sites)
        return make_plan(**{"masked": True, "dp": dp, "training": LOCKSTEP, "encoding": encoding} | changes)

    return make


def by_accountant(multiplier: float, *, rate: float, steps: int, delta: float, grid: float = 1e-4) -> float:
    """The second source: one mechanism over the pooled records, straight from the library."""
    one = pld.from_gaussian_mechanism(multiplier, sampling_prob=rate, value_discretization_interval=grid)
    return one.self_compose(steps).get_epsilon_for_delta(delta)


@pytest.mark.parametrize(("sites", "minimum_sum", "colluders"), [(5, 4, 1), (10, 7, 3), (20, 14, 6)])
def test_epsilon_is_that_of_one_mechanism_over_the_pooled_records(planned, sites, minimum_sum, colluders) -> None:
    """Central DP-SGD with the plan's multipliers: on a fine grid rounding and slack cost less than a thousandth."""
    plan = planned(sites=sites, minimum_sum=minimum_sum, colluders=colluders)
    dp = plan.dp

    spent = epsilon([plan.events(steps=40)], delta=dp.delta).epsilon

    central = by_accountant(
        joint_multiplier(dp.noise_multiplier, dp.loss_noise_multiplier), rate=dp.sampling_rate, steps=40, delta=dp.delta
    )
    assert central <= spent <= central * 1.001
    assert plan.events(steps=40).slack == OVERFLOW + 2 * LONG_ROUNDING


def test_with_one_share_to_count_on_it_is_noise_at_each_site(planned) -> None:
    """u - a = 1: a site's own share is the whole, and both epsilons are one."""
    plan = planned(sites=5, minimum_sum=4, colluders=3)

    assert plan.events(steps=7) == plan.events_alone(steps=7)
    share = plan.noised(1).share_stds["update"]
    assert share == plan.dp.noise_multiplier * plan.dp.clip_norm
    assert planned(minimum_sum=4, colluders=2).events_alone(steps=7) != planned(minimum_sum=4, colluders=2).events(
        steps=7
    )


def test_the_share_of_one_site_is_what_is_left_where_all_others_collude(planned) -> None:
    """Three shares make up sigma, so one alone is sigma over the root of three; the loss and the rounding go along."""
    plan = planned(minimum_sum=4, colluders=1)

    together, alone = plan.events(steps=3), plan.events_alone(steps=3)

    assert alone.noise_multiplier == pytest.approx(together.noise_multiplier / math.sqrt(3), rel=1e-12)
    assert epsilon([alone], delta=1e-4).epsilon > epsilon([together], delta=1e-4).epsilon


# By hand for q = .1, 50 steps, sigma = 1, delta = 1e-5, where central DP-SGD has epsilon 5.148: a naive share of
# sigma^2 / (N - t) leaves (N - t - c) / (N - t) of the noise where t sites drop out and c collude.
NAIVE = [
    # sites, dropped, colluding, part of the noise that is left, epsilon that it gives
    (5, 1, 1, 3 / 4, 6.847),
    (10, 3, 3, 4 / 7, 9.083),
    (10, 2, 3, 5 / 8, 8.265),
    (20, 3, 6, 11 / 17, 7.971),
]


@pytest.mark.parametrize(("sites", "dropped", "colluding", "left", "really"), NAIVE)
def test_a_share_that_forgets_colluders_costs_more_than_it_claims(sites, dropped, colluding, left, really) -> None:
    """Drops and colluders together: the naive plan claims 5.148 whatever happens."""
    assert (sites - dropped - colluding) / (sites - dropped) == pytest.approx(left)

    found = by_accountant(math.sqrt(left), rate=0.1, steps=50, delta=1e-5, grid=1e-3)

    assert found == pytest.approx(really, abs=3e-3)
    assert found > 1.3 * 5.148


@pytest.mark.parametrize("sites", [3, 5, 7, 10, 20, 64])
def test_the_plan_s_share_leaves_all_of_it_with_the_same_drops_and_colluders(planned, sites) -> None:
    """At the smallest sum that the floors allow, with as many colluders as they tolerate: sigma squared is left."""
    corrupt = default_tolerance(sites)
    floors = Floors(minimum_cohort=3, minimum_honest=3, corrupt_tolerance=corrupt)
    smallest = smallest_sum(roster=sites, floors=floors)
    plan = planned(sites=sites, minimum_sum=smallest, colluders=max(corrupt, 1))

    share = plan.noised(1).share_stds["update"]

    left = (smallest - max(corrupt, 1)) * share**2
    assert left == pytest.approx((plan.dp.noise_multiplier * plan.dp.clip_norm) ** 2)


def test_slack_counts_in_delta(planned) -> None:
    """As much slack as delta allows nothing; without any, the very same steps cost less."""
    events = planned().events(steps=3)
    plenty = dataclasses.replace(events, slack=1e-5)

    assert epsilon([plenty], delta=1e-4).epsilon > epsilon([dataclasses.replace(events, slack=0.0)], delta=1e-4).epsilon
    with pytest.raises(Refused, match="unaccountable_release"):
        epsilon([dataclasses.replace(events, slack=1e-4)], delta=1e-4)
    assert patient_epsilon(plenty, delta=1e-4, records=2) > patient_epsilon(events, delta=1e-4, records=2)
    with pytest.raises(Refused, match="unaccountable_release"):
        epsilon_with_selections([], [Selection(candidate=(plenty,), mean_runs=2.0, law="geometric")], delta=1e-4)


@pytest.mark.parametrize("slack", [-0.1, 1.0])
def test_slack_is_a_probability(slack) -> None:
    """Anything else is a mistake of the caller."""
    with pytest.raises(ValueError, match="slack"):
        StepEvents(sampling_rate=0.1, noise_multiplier=1.0, steps=1, slack=slack)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"masked": False}, "secure sum"),
        ({"study": "canary"}, "a plan that trains"),
        ({"training": TrainingConfig(steps_per_round=2, optim="sgd")}, "one step"),
        ({"training": TrainingConfig(steps_per_round=1)}, "plain sgd"),
        ({"training": dataclasses.replace(LOCKSTEP, weight_decay=0.1)}, "plain sgd"),
        ({"training": dataclasses.replace(LOCKSTEP, prox_mu=0.1)}, "plain sgd"),
        ({"method": "fedrot"}, "no site turns"),
        ({"minimum_sum": 6}, "between minimum_cohort and max_sites"),
        ({"minimum_sum": 2}, "between minimum_cohort and max_sites"),
        ({"colluders": 4}, "below minimum_sum"),
        ({"colluders": 0}, "at least 1"),
        ({"dp": {"noise_multiplier": 1e-1, "clip_norm": 1e-9}}, "field_bits"),
    ],
)
def test_a_plan_under_which_the_noise_would_be_short_cannot_be(planned, changes, why) -> None:
    """The plan itself is refused, so no site ever sees it as one."""
    with pytest.raises(ValueError, match=why):
        planned(**changes)


def test_continuous_noise_is_none_that_adds_up_exactly(make_dp) -> None:
    """A sum is modulo 2**64, so its noise is of integers."""
    with pytest.raises(ValueError, match="discrete"):
        make_dp(noise="gaussian", on_sum=SumNoise(minimum_sum=4, colluders=1, expected_batch=1.0))


def test_the_plan_keeps_both_numbers_under_its_digest(planned) -> None:
    """They travel with the plan, and a plan with other ones is another plan."""
    plan = planned()

    assert build(Plan, to_tree(plan)) == plan
    assert plan.minimum_sum == 4
    assert len({plan.sha256, planned(minimum_sum=5).sha256, planned(colluders=2).sha256}) == 3


def test_the_costliest_turn_counts_for_all(planned) -> None:
    """Turns with clips of their own have grids of their own; the plan is charged with the largest loss of them."""
    turns = tuple(Turn(trains="B", learning_rate=1.0, clip_norm=c, update_clip=4.0) for c in (1.0, 0.01))
    plan, plain = planned(turns=turns), planned()

    each = [plan.noised(number).multiplier("update", bound=c, shares=3) for number, c in ((1, 1.0), (2, 0.01))]

    assert each[0] == pytest.approx(each[1], rel=1e-2)
    assert plan.events(steps=1).noise_multiplier <= plain.events(steps=1).noise_multiplier
