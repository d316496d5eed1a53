"""Every rule of a policy refuses what it is there for, and lets the rest pass."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partsong.client.budget.blocks import Block
from partsong.client.rules.consent import Facts, NotAgreed, Rules, bytes_out, check_plan, largest_rank, trained_modules
from partsong.client.rules.policy import AdapterLimits, DataFloor, HoldingPolicy, Policy, PrivacyFloor, PurposePolicy
from partsong.common.adapters.adapter import AdapterLayout, TensorSpec
from partsong.common.build import build, to_tree
from partsong.common.plan import Plan
from partsong.common.privacy.terms import DpPlan
from partsong.common.thresholds import Floors

MakePlan = Callable[..., Plan]
MakeDp = Callable[..., DpPlan]

BASE = "b" * 64
OPEN: dict[str, Any] = {
    "purposes": {"train": {}},
    "adapter": {"bases": [BASE], "target_modules": ["q"], "max_r": 2, "max_bytes_out": 120},
    "privacy": {"max_epsilon": 4.0, "max_delta": 1e-4, "min_noise_multiplier": 1.0, "units": ["record"]},
    "data": {"minimum_cohort": 3, "minimum_records": 1000, "minimum_patients": 200},
}
"""Allows exactly the plan of the fixture below: each bound is met to the last unit."""


def policy(**sections: dict[str, Any]) -> Policy:
    """The policy above with keys of its sections changed."""
    tree = {name: OPEN[name] | sections.get(name, {}) for name in OPEN}
    return build(Policy, tree)


def facts_of(plan: Plan, **changes: Any) -> Facts:
    """A site that fits the plan, to the last record."""
    values: dict[str, Any] = {
        "records": 1000,
        "patients": 200,
        "base_sha256": plan.base_sha256,
        "layout": plan.layout,
        "lora": plan.lora,
        "labels": plan.labels,
    }
    return Facts(**values | changes)


def broken(plan: Plan, rules: Rules, facts: Facts) -> str:
    """The rule that refuses the plan, or nothing."""
    try:
        check_plan(plan, rules, facts)
    except NotAgreed as no:
        return no.rule
    return ""


@pytest.fixture
def plan(make_plan: MakePlan, make_dp: MakeDp) -> Plan:
    return make_plan(dp=make_dp(epsilon=4.0), masked=True)


def test_the_plan_that_meets_each_bound_to_the_last_unit_passes(plan: Plan) -> None:
    """Control for everything below."""
    assert bytes_out(plan) == 120
    assert broken(plan, policy().rules, facts_of(plan)) == ""


def test_an_empty_policy_allows_nothing(plan: Plan, make_plan: MakePlan) -> None:
    """Closed by default: no plan with or without privacy, nothing unmasked, no holding, and a person decides."""
    empty = build(Policy, {})

    assert empty == Policy()
    for given_plan in (plan, make_plan(), make_plan(masked=True), dataclasses.replace(plan, masked=False)):
        assert broken(given_plan, empty.rules, facts_of(given_plan)) != ""
    assert empty.grants == {}
    assert empty.approval("train") == "manual"
    assert not empty.privacy.allow_without_privacy
    assert not empty.privacy.allow_secure_sum_off
    assert empty.rules.masked_only


@pytest.mark.parametrize(
    ("section", "tighter", "rule"),
    [
        ("adapter", {"bases": ["c" * 64]}, "adapter.bases"),
        ("adapter", {"bases": []}, "adapter.bases"),
        ("adapter", {"target_modules": ["v"]}, "adapter.target_modules"),
        ("adapter", {"target_modules": []}, "adapter.target_modules"),
        ("adapter", {"max_r": 1}, "adapter.max_r"),
        ("adapter", {"max_bytes_out": 119}, "adapter.max_bytes_out"),
        ("privacy", {"max_epsilon": 3.99}, "privacy.max_epsilon"),
        ("privacy", {"max_delta": 0.999e-4}, "privacy.max_delta"),
        ("privacy", {"min_noise_multiplier": 1.001}, "privacy.min_noise_multiplier"),
        ("privacy", {"units": ["patient"]}, "privacy.units"),
        ("data", {"minimum_cohort": 4}, "data.minimum_cohort"),
        ("data", {"minimum_records": 1001}, "data.minimum_records"),
        ("data", {"minimum_patients": 201}, "data.minimum_patients"),
    ],
)
def test_one_rule_tightened_by_one_unit_refuses_by_its_name(
    plan: Plan, section: str, tighter: dict[str, Any], rule: str
) -> None:
    """The same plan, the same site, one key changed."""
    assert broken(plan, policy(**{section: tighter}).rules, facts_of(plan)) == rule


def test_a_purpose_that_is_not_named_is_refused(plan: Plan) -> None:
    """Evaluation allowed is not training allowed."""
    rules = dataclasses.replace(policy(), purposes={"evaluate": PurposePolicy(approval="auto")}).rules

    assert broken(plan, rules, facts_of(plan)) == "purposes"


def test_no_privacy_has_to_be_allowed_by_name(make_plan: MakePlan) -> None:
    """The key lets it pass, and nothing else does."""
    bare = make_plan(masked=True)

    assert broken(bare, policy().rules, facts_of(bare)) == "privacy.allow_without_privacy"
    assert broken(bare, policy(privacy={"allow_without_privacy": True}).rules, facts_of(bare)) == ""


def test_nothing_leaves_unmasked_unless_allowed_by_name(plan: Plan) -> None:
    """The plan says whether the secure sum is on; off, it is refused whatever else is right."""
    unmasked = dataclasses.replace(plan, masked=False)

    assert broken(unmasked, policy().rules, facts_of(plan)) == "privacy.allow_secure_sum_off"
    assert broken(unmasked, policy(privacy={"allow_secure_sum_off": True}).rules, facts_of(plan)) == ""


def test_patients_that_nobody_can_count_are_too_few_unless_the_operator_says_otherwise(plan: Plan) -> None:
    """A thousand records may be of one patient; who has no column for it writes null."""
    assert broken(plan, policy().rules, facts_of(plan, patients=None)) == "data.minimum_patients"
    assert broken(plan, policy(data={"minimum_patients": None}).rules, facts_of(plan, patients=None)) == ""


def with_lora(plan: Plan, layout: AdapterLayout, **lora: Any) -> tuple[Plan, Facts]:
    """The plan on another adapter that the site has installed too."""
    block = dataclasses.replace(plan.encoding.blocks[0], size=layout.size(trained=True))
    encoding = dataclasses.replace(plan.encoding, blocks=(block, plan.encoding.blocks[1]))
    changed = dataclasses.replace(plan, layout=layout, lora={**plan.lora, **lora}, encoding=encoding)
    return changed, facts_of(changed)


@pytest.mark.parametrize(
    ("shapes", "lora"),
    [
        (((2, 3), (4, 2)), {"rank_pattern": {"q": 64}}),
        (((3, 9), (9, 3)), {}),
        (((2, 3), (4, 2)), {"r": 3}),
    ],
)
def test_a_rank_hidden_in_a_pattern_or_in_the_shapes_is_found(
    plan: Plan, shapes: tuple[tuple[int, int], tuple[int, int]], lora: dict[str, Any]
) -> None:
    """`r` says 2; what is trained is larger, and so is what leaves."""
    a, b = (dataclasses.replace(t, shape=s) for t, s in zip(plan.layout.tensors, shapes, strict=True))
    odd, facts = with_lora(plan, AdapterLayout(tensors=(a, b)), **lora)
    roomy = policy(adapter={"max_bytes_out": 10_000})

    assert largest_rank(odd) > 2
    assert broken(odd, roomy.rules, facts) == "adapter.max_r"
    assert broken(odd, policy(adapter={"max_bytes_out": 10_000, "max_r": 64}).rules, facts) == ""


def test_a_layer_that_is_trained_without_being_named_is_found(plan: Plan) -> None:
    """A whole head sent beside the adapter is a layer like any other, whatever `target_modules` says."""
    head = TensorSpec(name="base_model.model.score.weight", shape=(2, 2), trained=True)
    odd, facts = with_lora(plan, AdapterLayout(tensors=(*plan.layout.tensors, head)))
    roomy = {"max_bytes_out": 10_000}

    assert trained_modules(odd) == {"q", "score"}
    assert broken(odd, policy(adapter=roomy).rules, facts) == "adapter.target_modules"
    assert broken(odd, policy(adapter={**roomy, "target_modules": ["q", "score"]}).rules, facts) == ""


def test_the_first_rule_that_is_broken_is_named(plan: Plan) -> None:
    """A purpose that is not allowed is said before anything of the data is looked at."""
    rules = dataclasses.replace(policy(data={"minimum_records": 10**6}), purposes={}).rules

    assert broken(plan, rules, facts_of(plan)) == "purposes"


def test_a_refusal_tells_the_coordinator_a_code_and_the_operator_the_rule(plan: Plan) -> None:
    """Numbers of the site stand in the text for the operator; the code is one of a short list."""
    with pytest.raises(NotAgreed) as no:
        check_plan(plan, policy(data={"minimum_records": 5000}).rules, facts_of(plan))

    assert (no.value.code, no.value.rule) == ("data", "data.minimum_records")
    assert "1000 records, 5000 required" in str(no.value)


def test_the_stricter_floor_wins() -> None:
    """Policy and charter each raise the other."""
    charter = Floors(minimum_cohort=4, minimum_honest=3, corrupt_tolerance=1)

    assert policy(data={"minimum_cohort": 5}).stricter(charter) == dataclasses.replace(charter, minimum_cohort=5)
    assert policy().stricter(charter) == charter


def test_a_holding_with_blocks_gives_each_block_the_budget_and_the_whole_none() -> None:
    """What the ledger keeps is named after holding and block."""
    blocks = (
        Block(name="2023", first="2023-01-01", last="2023-12-31"),
        Block(name="2024", first="2024-01-01", last="2024-12-31"),
    )
    cut = HoldingPolicy(epsilon=8.0, delta=1e-6, per_quarter=2.0, purposes={"train": 6.0}, blocks=blocks)

    grants = Policy(holdings={"ward": cut, "lab": HoldingPolicy(epsilon=1.0, delta=1e-6)}).grants

    assert list(grants) == ["ward/2023", "ward/2024", "lab"]
    assert grants["ward/2023"] == grants["ward/2024"] == cut.grant
    assert (cut.grant.epsilon, cut.grant.per_quarter, cut.grant.purposes) == (8.0, 2.0, {"train": 6.0})


@pytest.mark.parametrize(
    "make",
    [
        lambda: HoldingPolicy(epsilon=0.0, delta=1e-6),
        lambda: HoldingPolicy(epsilon=1001.0, delta=1e-6),
        lambda: HoldingPolicy(epsilon=1.0, delta=0.0),
        lambda: HoldingPolicy(epsilon=1.0, delta=1.0),
        lambda: HoldingPolicy(epsilon=1.0, delta=1e-6, per_quarter=1.1),
        lambda: HoldingPolicy(epsilon=1.0, delta=1e-6, purposes={"train": 1.1}),
        lambda: HoldingPolicy(epsilon=1.0, delta=1e-6, purposes={"train": 0.0}),
        lambda: HoldingPolicy(epsilon=1.0, delta=1e-6, unfinished_per_day=0),
        lambda: PrivacyFloor(max_epsilon=0.0),
        lambda: PrivacyFloor(max_delta=0.0),
        lambda: PrivacyFloor(max_delta=1.0),
        lambda: PrivacyFloor(min_noise_multiplier=0.05),
        lambda: PrivacyFloor(units=()),
        lambda: PrivacyFloor(units=("record", "record")),
        lambda: DataFloor(minimum_cohort=1),
        lambda: DataFloor(minimum_records=0),
        lambda: DataFloor(minimum_patients=0),
        lambda: AdapterLimits(max_r=0),
        lambda: AdapterLimits(bases=("B" * 64,)),
        lambda: Policy(holdings={"a/b": HoldingPolicy(epsilon=1.0, delta=1e-6)}),
    ],
)
def test_a_policy_that_means_nothing_is_refused(make: Callable[[], object]) -> None:
    """A ration above the lifetime, a cohort of one, a name that would pass for a block: nobody means that."""
    with pytest.raises(ValueError, match=r"\w"):
        make()


@settings(max_examples=40, deadline=None)
@given(
    epsilon=st.floats(0.01, 1000),
    part=st.floats(0.01, 1),
    r=st.integers(1, 512),
    modules=st.lists(st.sampled_from(["q_proj", "v_proj", "score"]), unique=True),
    cohort=st.integers(2, 64),
    private=st.sampled_from([True, False]),
)
def test_a_policy_survives_the_way_through_a_file(
    epsilon: float, part: float, r: int, modules: list[str], cohort: int, private: Any
) -> None:
    """What is built, written as a tree and built again is the same policy and gives the same rules."""
    made = Policy(
        holdings={"ward": HoldingPolicy(epsilon=epsilon, delta=1e-6, per_quarter=epsilon * part)},
        purposes={"train": PurposePolicy(approval="auto")},
        privacy=PrivacyFloor(allow_without_privacy=private),
        data=DataFloor(minimum_cohort=cohort),
        adapter=AdapterLimits(target_modules=tuple(modules), max_r=r),
    )

    again = build(Policy, to_tree(made))

    assert again == made
    assert again.rules == made.rules


def test_every_key_of_a_policy_but_the_holdings_reaches_a_rule() -> None:
    """A key that nothing reads would be a promise that nobody keeps: each one changes what is checked or granted."""
    changed = {
        "privacy": {
            "max_epsilon": 1.0,
            "max_epsilon_alone": 9.0,
            "max_delta": 1e-9,
            "min_noise_multiplier": 2.0,
            "units": ["patient"],
            "allow_without_privacy": True,
            "allow_secure_sum_off": True,
        },
        "data": {
            "minimum_cohort": 9,
            "minimum_records": 9,
            "minimum_patients": 9,
            "survey_first": True,
            "vote": "allow",
        },
        "adapter": {"bases": [], "target_modules": [], "max_r": 9, "max_bytes_out": 9},
    }
    for section, keys in changed.items():
        assert set(keys) == {f.name for f in dataclasses.fields(getattr(Policy(), section))}
        for key, value in keys.items():
            assert policy(**{section: {key: value}}).rules != policy().rules, key
    assert set(changed) | {"holdings", "purposes"} == {f.name for f in dataclasses.fields(Policy)}
