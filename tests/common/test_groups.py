"""Groups of sites: who is dealt where, who is asked when, and what that costs a site."""

import dataclasses
import itertools
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from partsong.common.adapters.turns import Turn
from partsong.common.build import to_tree
from partsong.common.config import TrainingConfig
from partsong.common.groups import Groups, asked_in, check_groups, deal, of_one_site
from partsong.common.plan import Plan
from partsong.common.privacy.accounting import epsilon
from partsong.common.privacy.terms import DpPlan, SumNoise
from partsong.common.questions.vote import Vote
from partsong.common.rates import step_rate

MakePlan = Callable[..., Plan]
MakeDp = Callable[..., DpPlan]
GROUPS = Groups(sites=(("a", "d", "g"), ("b", "e", "h"), ("c", "f", "i")))


@given(st.sets(st.text("abcdef", min_size=1), min_size=3, max_size=40), st.integers(3, 9), st.text("xyz"))
def test_every_site_is_dealt_into_one_group_and_sizes_differ_by_one_at_most(
    names: set[str], count: int, run: str
) -> None:
    """In an order that depends on names alone."""
    if len(names) < count:
        return
    groups = deal(names, count=count, run=run)

    sizes = [len(group) for group in groups.sites]
    assert sorted(itertools.chain(*groups.sites)) == sorted(names)
    assert groups.count == count
    assert max(sizes) - min(sizes) <= 1
    assert groups.smallest == min(sizes)
    assert deal(sorted(names, reverse=True), count=count, run=run) == groups


def test_another_run_deals_anew() -> None:
    """So that no two sites are in one group for ever."""
    names = [f"site-{i:02}" for i in range(30)]
    assert deal(names, count=3, run="one") != deal(names, count=3, run="two")


def test_rounds_ask_one_group_after_the_other() -> None:
    """By hand: three groups, two steps."""
    assert [GROUPS.asked(number)[0] for number in range(1, 7)] == ["a", "b", "c", "a", "b", "c"]
    assert [GROUPS.step(number) for number in range(1, 7)] == [1, 1, 1, 2, 2, 2]


@pytest.mark.parametrize(
    "sites",
    [(("a",), ("b",)), (("a",), ("b",), ("a",)), (("b", "a"), ("c",), ("d",)), (("a", "a"), ("c",), ("d",))],
    ids=["two groups", "in two groups", "out of order", "twice in a group"],
)
def test_what_is_no_division_into_groups_is_refused(sites: tuple[tuple[str, ...], ...]) -> None:
    """With two groups the median is the mean, and a site in two groups has two voices."""
    with pytest.raises(ValueError, match="group"):
        Groups(sites=sites)


def test_a_plan_without_groups_asks_everybody_and_is_written_as_before(make_plan: MakePlan) -> None:
    """What was signed before there were groups stays as it was."""
    plan = make_plan()

    assert "groups" not in to_tree(plan)
    assert asked_in(plan, 2, ("b", "a")) == ("b", "a")
    assert of_one_site(plan) is plan
    check_groups(plan)


def test_groups_are_refused_where_a_round_does_something_else(make_plan: MakePlan, make_dp: MakeDp) -> None:
    """Votes, noise on the sum, a group below the floor, a step without all groups; the plan itself is fine."""
    vote = Vote(most_votes=5, margin=0.0, scale=0.1, noise_multiplier=None)
    shared = make_dp(noise="discrete", on_sum=SumNoise(minimum_sum=4, colluders=1, expected_batch=20.0))
    lockstep = TrainingConfig(steps_per_round=1, optim="sgd")
    fine = {"rounds": 6, "groups": GROUPS}
    make_plan(**fine)
    for change, words in (
        ({"vote": vote}, "without votes"),
        ({"dp": shared, "masked": True, "training": lockstep}, "whole in each"),
        ({"minimum_cohort": 4}, "minimum_cohort=4"),
        ({"rounds": 7}, "as many rounds"),
    ):
        with pytest.raises(ValueError, match=words):
            make_plan(**fine | change)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])  # it makes values and keeps none
@given(st.integers(1, 5), st.data())
def test_a_site_pays_for_the_rounds_of_its_own_group(make_plan: MakePlan, steps: int, data: st.DataObject) -> None:
    """The most rounds of any one group, counted one by one, whatever part of a run is looked at."""
    plan = make_plan(rounds=12, groups=GROUPS, training=TrainingConfig(steps_per_round=steps))
    first = data.draw(st.integers(1, 12))
    last = data.draw(st.integers(first, 12))

    asked = [plan.groups.place(number) for number in range(first, last + 1)] if plan.groups else []

    assert plan.steps_between(first=first, last=last) == steps * max(map(asked.count, range(3)))
    assert plan.steps == 4 * steps
    assert plan.queries == 4


def test_a_query_of_any_group_costs_a_round_and_not_nothing(make_plan: MakePlan, make_dp: MakeDp) -> None:
    """A count of steps of the adapter would not rise in rounds 2 and 3: that is how a site would pay nothing."""
    plan = make_plan(rounds=6, groups=GROUPS, dp=make_dp())
    bare = make_plan(rounds=2, dp=make_dp())

    each = [plan.releases(first=number, last=number) for number in range(1, 7)]

    assert each == [bare.releases(first=1, last=1)] * 6
    assert [plan.training_number(number) for number in range(1, 7)] == [1, 1, 1, 2, 2, 2]
    assert plan.dp is not None
    whole = epsilon(plan.releases(first=1, last=6), delta=plan.dp.delta).epsilon
    assert whole == epsilon(bare.releases(first=1, last=2), delta=plan.dp.delta).epsilon


def test_one_site_lives_through_a_plan_of_its_own_rounds(make_plan: MakePlan, make_dp: MakeDp) -> None:
    """As many steps and bytes as the whole plan says of it."""
    plan = make_plan(rounds=6, groups=GROUPS, dp=make_dp())

    alone = of_one_site(plan)

    assert (alone.groups, alone.rounds) == (None, 2)
    assert (alone.steps, alone.sealed_bytes()) == (plan.steps, plan.sealed_bytes())
    assert alone.releases(first=1, last=2) == plan.releases(first=1, last=6)


def test_all_groups_of_a_step_train_the_same(make_plan: MakePlan) -> None:
    """The turn of a round, and its rate, are those of the step."""
    turns = tuple(Turn(trains="B", learning_rate=rate, clip_norm=1.0, update_clip=1.0) for rate in (1.0, 0.5))
    falling = TrainingConfig(lr_scheduler_type="linear")
    plan = make_plan(rounds=6, groups=GROUPS, turns=turns, training=falling)
    bare = dataclasses.replace(plan, rounds=2, groups=None)

    rates = [step_rate(plan, number=number) for number in range(1, 7)]

    assert rates == [step_rate(bare, number=1)] * 3 + [step_rate(bare, number=2)] * 3
