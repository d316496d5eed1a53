"""What a site agrees to, and what it refuses by which code."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from partsong.client.rules.consent import Facts, NotAgreed, Rules, check_plan, check_query
from partsong.common import wire
from partsong.common.adapters.adapter import AdapterLayout, TensorSpec
from partsong.common.plan import LOSS, UPDATE, Plan
from partsong.common.privacy.accounting import StepEvents, epsilon, joint_multiplier
from partsong.common.privacy.terms import DpPlan
from partsong.common.secure_sum.fixed_point import Block, Encoding

MakePlan = Callable[..., Plan]
MakeDp = Callable[..., DpPlan]
OPEN_RULES = Rules(allow_without_privacy=True, minimum_records=1)


def facts_of(plan: Plan, **changes: Any) -> Facts:
    """A site that fits the plan."""
    values: dict[str, Any] = {
        "records": 1000,
        "base_sha256": plan.base_sha256,
        "layout": plan.layout,
        "lora": plan.lora,
        "labels": plan.labels,
    }
    return Facts(**values | changes)


def refused(plan: Plan, rules: Rules, facts: Facts) -> str:
    """The code of the refusal, or nothing."""
    try:
        check_plan(plan, rules, facts)
    except NotAgreed as no:
        return no.code
    return ""


def test_a_plan_inside_the_rules_is_accepted(make_plan: MakePlan, make_dp: MakeDp) -> None:
    """Control for every refusal below: with and without privacy."""
    for plan in (make_plan(), make_plan(dp=make_dp())):
        assert refused(plan, OPEN_RULES, facts_of(plan)) == ""


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"base_sha256": "0" * 64}, "model"),
        ({"layout": AdapterLayout(tensors=())}, "model"),
        ({"lora": {"r": 3}}, "model"),
        ({"labels": ("a",)}, "model"),
        ({"records": 0}, "data"),
        ({"max_length": 63}, "model"),
    ],
)
def test_facts_that_do_not_fit_are_refused(make_plan: MakePlan, change: dict[str, Any], code: str) -> None:
    """Another base, adapter or labels than those installed here, or nothing to train on."""
    plan = make_plan()

    assert refused(plan, dataclasses.replace(OPEN_RULES, minimum_records=0), facts_of(plan, **change)) == code


@pytest.mark.parametrize(("minimum", "code"), [(2, "policy"), (3, ""), (4, "")])
def test_a_floor_below_the_sites_own_is_refused(make_plan: MakePlan, minimum: int, code: str) -> None:
    """The plan's floor may be higher than the site's, never lower."""
    plan = make_plan(minimum_cohort=minimum)

    assert refused(plan, OPEN_RULES, facts_of(plan)) == code


@pytest.mark.parametrize(("records", "code"), [(99, "data"), (100, "")])
def test_too_few_records_are_refused(make_plan: MakePlan, records: int, code: str) -> None:
    """The default asks for a hundred."""
    plan = make_plan()

    assert refused(plan, Rules(allow_without_privacy=True), facts_of(plan, records=records)) == code


def test_no_privacy_has_to_be_allowed_by_name(make_plan: MakePlan) -> None:
    """The default refuses."""
    assert refused(make_plan(), Rules(), facts_of(make_plan())) == "policy"


def test_another_shape_of_the_sealed_vector_is_refused(make_plan: MakePlan) -> None:
    """A third block, or another size, would carry something that nobody agreed to."""
    plan = make_plan()
    more = Block(name="more", size=1, clip=1.0, norm="linf", rotate=False)
    small = dataclasses.replace(plan.encoding.blocks[0], size=7)

    for blocks in ((*plan.encoding.blocks, more), plan.encoding.blocks[:1], (small, plan.encoding.blocks[1])):
        odd = dataclasses.replace(plan, encoding=dataclasses.replace(plan.encoding, blocks=blocks))
        assert refused(odd, OPEN_RULES, facts_of(odd)) == "plan"


@pytest.mark.parametrize(
    ("change", "rules", "code"),
    [
        ({"epsilon": 8.1}, Rules(), "policy"),
        ({"epsilon": 4.1}, Rules(max_epsilon=4.0), "policy"),
        ({"delta": 1e-3}, Rules(), "policy"),
        ({"delta": 2e-3}, Rules(), "policy"),
        ({"delta": 0.999e-3}, Rules(), ""),
        ({"noise_multiplier": 0.5}, Rules(), "policy"),
        ({"loss_noise_multiplier": 0.5}, Rules(), "policy"),
    ],
)
def test_privacy_terms_outside_the_rules_are_refused(
    make_plan: MakePlan, make_dp: MakeDp, change: dict[str, Any], rules: Rules, code: str
) -> None:
    """Too much epsilon, a delta of a whole record, noise (also that of the loss) that does not keep the epsilon."""
    plan = make_plan(dp=make_dp(**{"epsilon": 4.0} | change))

    assert refused(plan, rules, facts_of(plan)) == code


def test_the_epsilon_is_that_of_this_sites_own_truncated_samples(make_plan: MakePlan, make_dp: MakeDp) -> None:
    """A plan whose epsilon is between the general one and the site's own is refused; the site's own is accepted."""
    sigma = joint_multiplier(gradient=1.0, loss=4.0)
    events = StepEvents(sampling_rate=0.1, noise_multiplier=sigma, steps=make_plan().steps)
    general = epsilon([events], delta=1e-4).epsilon
    own = epsilon([events.at_site(records=100)], delta=1e-4).epsilon
    assert general < own < general * 1.001
    between, enough = (make_plan(dp=make_dp(epsilon=e)) for e in ((general + own) / 2, own))

    assert refused(between, Rules(), facts_of(between, records=100)) == "policy"
    assert refused(enough, Rules(), facts_of(enough, records=100)) == ""


def test_options_are_compared_as_they_travel(make_plan: MakePlan) -> None:
    """A tuple that became a list on the wire is the same option."""
    plan = make_plan(lora={"target_modules": ["a", "b"], "layers": [1]})

    assert refused(plan, OPEN_RULES, facts_of(plan, lora={"layers": (1,), "target_modules": ("a", "b")})) == ""
    assert refused(plan, OPEN_RULES, facts_of(plan, lora={"layers": (1,), "target_modules": ("b", "a")})) == "model"


def ask(plan: Plan, opened: list[tuple[int, int]], **changes: Any) -> str:
    """The code by which a query is refused, or nothing."""
    values: dict[str, Any] = {"plan_sha256": plan.sha256, "round": 1, "attempt": 1, "adapter_sha256": "a", "summed": 0}
    try:
        check_query(wire.Open(**values | changes), plan, opened=opened)
    except NotAgreed as no:
        return no.code
    return ""


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({}, ""),
        ({"plan_sha256": "other"}, "plan"),
        ({"round": 0}, "plan"),
        ({"round": 4}, "plan"),
        ({"round": -1}, "plan"),
        ({"attempt": 0}, "plan"),
        ({"round": 3, "attempt": 9}, ""),
    ],
)
def test_a_query_has_to_lie_inside_the_plan(make_plan: MakePlan, change: dict[str, Any], code: str) -> None:
    """Another plan, or a round that it does not have."""
    assert ask(make_plan(), [], **change) == code


@pytest.mark.parametrize(
    ("opened", "number", "attempt", "code"),
    [
        ([(1, 1)], 1, 1, "state"),
        ([(1, 1)], 1, 2, ""),
        ([(1, 2)], 1, 1, "state"),
        ([(2, 1)], 1, 5, "state"),
        ([(1, 1), (2, 1)], 2, 1, "state"),
        ([(1, 1), (2, 1)], 3, 1, ""),
        ([(3, 1), (1, 1)], 2, 1, "state"),
    ],
)
def test_a_replayed_or_earlier_query_is_refused(
    make_plan: MakePlan, opened: list[tuple[int, int]], number: int, attempt: int, code: str
) -> None:
    """Each place in the protocol gives one update; a new attempt at the newest round is a new place."""
    assert ask(make_plan(), opened, round=number, attempt=attempt) == code
    assert ask(make_plan(seed=1), opened, round=number, attempt=attempt) == ""  # repeats itself, for tests


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(queries=st.lists(st.tuples(st.integers(-1, 5), st.integers(-1, 4)), max_size=30))
def test_no_order_of_queries_answers_one_place_twice(
    make_plan: MakePlan, make_dp: MakeDp, queries: list[tuple[int, int]]
) -> None:
    """Whatever a coordinator asks, each accepted query is later than the last; the ledger bounds their number."""
    plan = make_plan(dp=make_dp())
    opened: list[tuple[int, int]] = []
    for number, attempt in queries:
        if not ask(plan, opened, round=number, attempt=attempt):
            opened.append((number, attempt))

    assert opened == sorted(set(opened))


def test_where_patients_are_the_unit_they_are_what_is_counted(make_plan: MakePlan, make_dp: MakeDp) -> None:
    """Delta against their number, the cut of samples by it, and no plan for records without owners."""
    plan = make_plan(dp=make_dp(unit="patient", contribution_bound=4, delta=1e-3, epsilon=50.0))
    rules = Rules(max_epsilon=50.0, minimum_records=1)

    assert refused(plan, rules, facts_of(plan, records=5000, patients=999)) == ""
    assert refused(plan, rules, facts_of(plan, records=5000, patients=1000)) == "policy"
    assert refused(plan, rules, facts_of(plan, records=500)) == "data"
    by_record = make_plan(dp=make_dp(delta=1e-3, epsilon=50.0))
    assert refused(by_record, rules, facts_of(by_record, records=5000, patients=999)) == "policy"


def test_records_cut_elsewhere_than_the_plan_says_are_refused(make_plan: MakePlan) -> None:
    """The plan's length is a part of what was agreed."""
    plan = make_plan()

    assert refused(plan, OPEN_RULES, facts_of(plan, max_length=plan.max_length)) == ""
    assert refused(plan, OPEN_RULES, facts_of(plan, max_length=plan.max_length + 1)) == "model"


def test_the_rounding_of_discrete_noise_counts(make_plan: MakePlan, make_dp: MakeDp) -> None:
    """Terms that keep epsilon only without it are refused."""
    loud = {"noise_multiplier": 0.45}  # below the noise that gets the slow, fine grid
    smooth = make_dp(**loud)
    layout = AdapterLayout(tensors=(TensorSpec(name="b", shape=(3000, 4000), trained=True),))
    encoding = Encoding(
        blocks=(
            Block(name=UPDATE, size=12_000_000, clip=4.0, norm="l2", rotate=True),
            Block(name=LOSS, size=1, clip=32.0, norm="linf", rotate=False),
        ),
        field_bits=32,
        max_sites=5,
    )
    steps = make_plan().steps
    need = epsilon([smooth.events(steps=steps, size=12_000_000)], delta=smooth.delta).epsilon * 1.0005

    def answer(noise: str) -> str:
        plan = make_plan(dp=make_dp(epsilon=need, noise=noise, **loud), layout=layout, encoding=encoding)
        return refused(plan, Rules(max_epsilon=1000.0, minimum_records=1), facts_of(plan))

    assert (answer("gaussian"), answer("discrete")) == ("", "policy")
