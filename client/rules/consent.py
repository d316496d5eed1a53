"""The site decides: a plan and each of its queries are checked against the site's own rules before a record is read.

Covers: the plan's purpose and privacy terms, as they hold for this site's own number of records and patients; its base
model, its shapes, what of it leaves, and its floors; the number of rounds it may ask for, each query once.
Does not cover: budgets across plans (the ledger's business), and the word of a person (`approval`).

Pure: facts and rules come in, a refusal or nothing comes out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from partsong.common.adapters.adapter import AdapterLayout
from partsong.common.build import canonical_json
from partsong.common.canary import MOST_NUMBERS, NO_MODEL, STUDY
from partsong.common.errors import PartsongError, Refused
from partsong.common.plan import LOSS, UPDATE, Plan
from partsong.common.privacy.accounting import epsilon
from partsong.common.privacy.terms import DpPlan
from partsong.common.wire import Open, RefusalCode

Purpose = Literal["train", "evaluate", "survey", "audit", "canary"]
Unit = Literal["patient", "record"]
VoteRule = Literal["refuse", "allow", "require"]

_PUBLIC: Mapping[str, RefusalCode] = {
    "over_budget": "budget",
    "over_ration": "budget",
    "too_many_unfinished": "budget",
    "unaccountable_release": "policy",
    "unknown_holding": "policy",
    "no_survey": "policy",
    "delta_too_large": "policy",
    "mixed_units": "policy",
    "context_used": "state",
    "not_reserved": "state",
}


class NotAgreed(PartsongError):
    """The site refuses; `code` is all that the coordinator learns."""

    def __init__(self, code: RefusalCode, reason: str, *, rule: str = "") -> None:
        """Keep rule and reason for the operator and the code for the coordinator."""
        named = f"{code}, rule {rule}" if rule and rule != code else code
        super().__init__(f"refused ({named}): {reason}; nothing was read or sent")
        self.code: RefusalCode = code
        self.rule, self.reason = rule or code, reason


def public_refusal(refused: Refused) -> NotAgreed:
    """Turn a refusal of the ledger into one that a coordinator may be told of, by its code alone.

    A rule that is not listed gives `state`: a damaged ledger is nobody else's business.
    """
    return NotAgreed(_PUBLIC.get(refused.rule, "state"), refused.reason, rule=refused.rule)


@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    """What a site allows of one plan. `Policy.rules` makes them of a policy."""

    max_epsilon: float = 8.0
    """Most that one plan may spend."""
    max_epsilon_alone: float | None = None
    """Most that one plan with noise on the sum may spend if this site's own share of it is all that is left. None: no
    plan with noise on the sum."""
    allow_without_privacy: bool = False
    """Whether a plan without differential privacy is acceptable at all."""
    minimum_cohort: int = 3
    """Fewest sites a sum may be made of."""
    minimum_records: int = 100
    """Fewest records to train on."""
    minimum_patients: int | None = None
    """Fewest patients to train on; data that does not say whose a record is has too few. None: any."""
    max_delta: float | None = None
    """Largest delta that a plan may state its epsilon at."""
    least_noise: float | None = None
    """Least noise multiplier of a step, for gradient and loss each."""
    units: tuple[Unit, ...] | None = None
    """Whose presence a plan may hide. None: any."""
    purposes: tuple[Purpose, ...] | None = None
    """Kinds of query. None: any."""
    bases: tuple[str, ...] | None = None
    """SHA-256 of the base models. None: the installed one."""
    target_modules: tuple[str, ...] | None = None
    """Layers that may change, a classification head included, by the last part of their name. None: any."""
    max_rank: int | None = None
    """Largest rank of any layer."""
    max_bytes_out: int | None = None
    """Most bytes of sealed vectors in all rounds together."""
    survey_first: bool = False
    """Whether training waits for a survey of the very records that are there."""
    vote: VoteRule = "allow"
    """Whether rounds of training may, or have to, be voted on by records that are kept for testing."""
    masked_only: bool = False
    """Whether vectors may leave under the secure sum only."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """What the site knows of itself."""

    records: int
    base_sha256: str
    layout: AdapterLayout
    lora: Mapping[str, Any] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    patients: int | None = None
    """How many people the records are of; None: the data does not say."""
    max_length: int | None = None
    """Where records were cut [tokens]; None: not known here."""


def check_plan(plan: Plan, rules: Rules, facts: Facts) -> None:
    """Accept a plan by returning.

    Raises:
        NotAgreed: the first rule that the plan breaks; nothing was read.
    """
    check_limits(plan, rules)
    if plan.study == STUDY:
        return
    _check_installed(plan, facts)
    _check_counts(rules, facts)
    if plan.dp is not None:
        _check_privacy(plan, plan.dp, rules, facts)
    elif not rules.allow_without_privacy:
        raise NotAgreed(
            "policy",
            "the plan has no differential privacy, which has to be allowed here by name",
            rule="privacy.allow_without_privacy",
        )


def check_limits(plan: Plan, rules: Rules) -> None:
    """Check what a plan says by itself. Only what keeps these limits is worth loading a model for.

    Raises:
        NotAgreed: the first rule that the plan breaks; nothing was read.
    """
    _check_purpose(plan, rules)
    _check_leaving(plan, rules)
    if plan.minimum_cohort < rules.minimum_cohort:
        raise NotAgreed(
            "policy",
            f"minimum cohort {plan.minimum_cohort}, {rules.minimum_cohort} required here",
            rule="data.minimum_cohort",
        )
    if plan.study == STUDY:
        _check_canary(plan)
    else:
        _check_adapter(plan, rules)


def check_query(query: Open, plan: Plan, *, opened: Sequence[tuple[int, int]]) -> None:
    """Accept a round's query by returning.

    Args:
        query: what the coordinator asks.
        plan: the accepted plan.
        opened: round and attempt of each query of this plan that was accepted here before, answered or not.

    Raises:
        NotAgreed: the query lies outside the plan, or is not later than all before it (a replay would give two
            updates for one place in the protocol); nothing was read.
    """
    if query.plan_sha256 != plan.sha256:
        raise NotAgreed("plan", "the query names another plan than the accepted one", rule="query.plan")
    if not 1 <= query.round <= plan.rounds or query.attempt < 1:
        raise NotAgreed("plan", f"round {query.round} of {plan.rounds}", rule="query.round")
    # A plan with a seed is for tests: the same query gives the same update, so asking again tells nothing new.
    if plan.seed is None and opened and (query.round, query.attempt) <= max(opened):
        raise NotAgreed(
            "state",
            f"round {query.round}, attempt {query.attempt} is not later than those before it",
            rule="query.order",
        )


def bytes_out(plan: Plan) -> int:
    """Bytes of sealed vectors that leave a site in all rounds of a plan, each answered once."""
    return plan.sealed_bytes()


def largest_rank(plan: Plan) -> int:
    """Largest rank of any layer, by the options of LoRA and by the shapes themselves."""
    pattern = plan.lora.get("rank_pattern")
    named = [plan.lora.get("r"), *(pattern.values() if isinstance(pattern, Mapping) else ())]
    shaped = [min(t.shape) for t in plan.layout.tensors if ".lora_" in t.name and t.shape]
    return max([0, *(rank for rank in named if isinstance(rank, int)), *shaped])


def trained_modules(plan: Plan) -> frozenset[str]:
    """Last part of the name of every layer that a plan changes: by the tensors that are sent, not by its word."""
    return frozenset(_module(t.name) for t in plan.layout.tensors if t.trained or ".lora_" in t.name)


def _module(tensor: str) -> str:
    layer = tensor.partition(".lora_")[0] if ".lora_" in tensor else tensor.rpartition(".")[0]
    return layer.rpartition(".")[2]


def _check_purpose(plan: Plan, rules: Rules) -> None:
    if rules.purposes is not None and plan.study not in rules.purposes:
        raise NotAgreed("policy", f"{plan.study} is not an allowed purpose here", rule="purposes")
    if plan.vote is not None and rules.vote == "refuse":
        raise NotAgreed("policy", "the plan asks for votes by test records, which is not allowed here", rule="vote")
    if plan.vote is None and plan.study == "train" and rules.vote == "require":
        raise NotAgreed("policy", "rounds that nobody votes on are not allowed here", rule="vote")
    if rules.masked_only and not plan.masked:
        raise NotAgreed(
            "policy",
            "the vectors would leave unmasked, which has to be allowed here by name",
            rule="privacy.allow_secure_sum_off",
        )


def _check_leaving(plan: Plan, rules: Rules) -> None:
    """What is sealed is one update (or the answer to one question) and one loss, and not too much of it."""
    if {b.name: b.size for b in plan.encoding.blocks} != {UPDATE: plan.vector_size, LOSS: 1}:
        raise NotAgreed("plan", "the encoding is not that of the plan's queries")
    if rules.max_bytes_out is not None and (leaving := bytes_out(plan)) > rules.max_bytes_out:
        raise NotAgreed(
            "policy",
            f"{leaving:,} bytes would leave, at most {rules.max_bytes_out:,} may",
            rule="adapter.max_bytes_out",
        )


def _check_canary(plan: Plan) -> None:
    """A canary may not look like work on records: then nobody takes the one for the other."""
    if plan.base_sha256 != NO_MODEL or plan.dp is not None or plan.labels or plan.lora:
        raise NotAgreed("plan", "a canary with a model, labels or privacy terms", rule="canary")
    if (size := plan.layout.size(trained=True)) > MOST_NUMBERS or plan.layout.size(trained=False):
        raise NotAgreed("policy", f"a canary of {size:,} numbers, at most {MOST_NUMBERS:,}", rule="canary.size")


def _check_adapter(plan: Plan, rules: Rules) -> None:
    if rules.bases is not None and plan.base_sha256 not in rules.bases:
        raise NotAgreed("policy", f"base model {plan.base_sha256[:12]} is not an allowed one", rule="adapter.bases")
    if rules.target_modules is not None and (odd := sorted(trained_modules(plan) - set(rules.target_modules))):
        raise NotAgreed("policy", f"layer {odd[0]} may not be trained here", rule="adapter.target_modules")
    if rules.max_rank is not None and (rank := largest_rank(plan)) > rules.max_rank:
        raise NotAgreed("policy", f"rank {rank}, at most {rules.max_rank} here", rule="adapter.max_r")


def _check_installed(plan: Plan, facts: Facts) -> None:
    if plan.base_sha256 != facts.base_sha256:
        raise NotAgreed("model", "the plan is for another base model than the one installed here")
    # As JSON, which is how options travel: a tuple comes back as a list.
    same_lora = canonical_json(plan.lora) == canonical_json(facts.lora)
    if plan.layout != facts.layout or not same_lora or plan.labels != facts.labels:
        raise NotAgreed("model", "the plan's adapter or labels are not those configured here")
    if facts.max_length not in (None, plan.max_length):
        raise NotAgreed("model", f"records of {plan.max_length} tokens, {facts.max_length} configured here")


def _check_counts(rules: Rules, facts: Facts) -> None:
    if facts.records < max(1, rules.minimum_records):
        raise NotAgreed(
            "data", f"{facts.records} records, {rules.minimum_records} required here", rule="data.minimum_records"
        )
    least = rules.minimum_patients
    if least is not None and (facts.patients is None or facts.patients < least):
        found = "an unknown number of" if facts.patients is None else facts.patients
        raise NotAgreed("data", f"{found} patients, {least} required here", rule="data.minimum_patients")


def _check_privacy(plan: Plan, dp: DpPlan, rules: Rules, facts: Facts) -> None:
    units = _units(dp.unit, rules, facts)
    if plan.question is not None and units > plan.question.most_units:
        raise NotAgreed("data", f"{units} {dp.unit}s, the plan has room for {plan.question.most_units}", rule="units")
    if dp.delta * units >= 1:
        raise NotAgreed("policy", f"delta is not below 1 / number of {dp.unit}s", rule="delta")
    if rules.max_delta is not None and dp.delta > rules.max_delta:
        raise NotAgreed(
            "policy",
            f"epsilon stated at delta {dp.delta:g}, at most {rules.max_delta:g} here",
            rule="privacy.max_delta",
        )
    if dp.epsilon > rules.max_epsilon:
        raise NotAgreed("policy", f"epsilon {dp.epsilon}, at most {rules.max_epsilon} here", rule="privacy.max_epsilon")
    least = min(dp.noise_multiplier, dp.loss_noise_multiplier)
    if plan.vote is not None and plan.vote.noise_multiplier is not None:
        least = min(least, plan.vote.noise_multiplier)
    if rules.least_noise is not None and least < rules.least_noise:
        raise NotAgreed(
            "policy",
            f"noise multiplier {least:g}, at least {rules.least_noise:g} here",
            rule="privacy.min_noise_multiplier",
        )
    released = plan.releases(first=1, last=plan.rounds)
    try:
        spent = epsilon([events.at_site(records=units) for events in released], delta=dp.delta).epsilon
    except Refused as err:
        raise NotAgreed("policy", "the plan's noise is too small to be accounted for", rule="accounting") from err
    if spent > dp.epsilon:
        raise NotAgreed(
            "policy",
            f"the plan's noise gives epsilon {spent:.4f} here, more than its {dp.epsilon}",
            rule="accounting",
        )
    if dp.on_sum is not None:
        _check_alone(plan, dp, rules, units=units)


def _check_alone(plan: Plan, dp: DpPlan, rules: Rules, *, units: int) -> None:
    """Refuse noise on the sum that this site has not allowed, or that leaves it with too little of its own."""
    most, rule = rules.max_epsilon_alone, "privacy.max_epsilon_alone"
    if most is None:
        raise NotAgreed("policy", "noise on the sum, which has to be allowed here by a ceiling", rule=rule)
    try:
        alone = epsilon([plan.events_alone(steps=plan.steps).at_site(records=units)], delta=dp.delta).epsilon
    except Refused:
        alone = math.inf
    if alone > most:
        raise NotAgreed(
            "policy", f"epsilon {alone:.4g} by this site's own share of the noise, at most {most:g} here", rule=rule
        )


def _units(unit: Unit, rules: Rules, facts: Facts) -> int:
    """How many there are of what the plan hides."""
    if rules.units is not None and unit not in rules.units:
        raise NotAgreed("policy", f"a plan that hides a {unit} is not allowed here", rule="privacy.units")
    if unit == "record":
        return facts.records
    if facts.patients is None:
        raise NotAgreed("data", "the data here does not say whose a record is", rule="privacy.units")
    return facts.patients
