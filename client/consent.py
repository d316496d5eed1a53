"""The site decides: a plan and each of its queries are checked against the site's own rules before a record is read.

Covers: the plan's privacy terms, as they hold for this site's own number of records or patients; its base model, its
shapes and its floor; the number of rounds it may ask for, each query once.
Does not cover: budgets across plans (the ledger's business).

Pure: facts and rules come in, a refusal or nothing comes out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from partsong.common.accounting import epsilon
from partsong.common.adapter import AdapterLayout
from partsong.common.build import canonical_json
from partsong.common.errors import PartsongError, Refused
from partsong.common.plan import LOSS, UPDATE, DpPlan, Plan
from partsong.common.wire import Open, RefusalCode


class NotAgreed(PartsongError):
    """The site refuses; `code` is all that the coordinator learns."""

    def __init__(self, code: RefusalCode, reason: str) -> None:
        """Keep the reason for the operator and the code for the coordinator."""
        super().__init__(f"refused ({code}): {reason}; nothing was read or sent")
        self.code: RefusalCode = code


@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    """What a site allows. Closed by default."""

    max_epsilon: float = 8.0
    """Most that one plan may spend."""
    allow_without_privacy: bool = False
    """Whether a plan without differential privacy is acceptable at all."""
    minimum_cohort: int = 3
    """Fewest sites a sum may be made of."""
    minimum_records: int = 100
    """Fewest records to train on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """What the site knows of itself."""

    records: int
    base_sha256: str
    layout: AdapterLayout
    lora: Mapping[str, Any] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    patients: int | None = None
    """None: the records do not say whose they are."""
    max_length: int | None = None
    """Where records were cut [tokens]; None: not known here."""


def check_plan(plan: Plan, rules: Rules, facts: Facts) -> None:
    """Accept a plan by returning.

    Raises:
        NotAgreed: the first rule that the plan breaks; nothing was read.
    """
    if plan.base_sha256 != facts.base_sha256:
        raise NotAgreed("model", "the plan is for another base model than the one installed here")
    # As JSON, which is how options travel: a tuple comes back as a list.
    same_lora = canonical_json(plan.lora) == canonical_json(facts.lora)
    if plan.layout != facts.layout or not same_lora or plan.labels != facts.labels:
        raise NotAgreed("model", "the plan's adapter or labels are not those configured here")
    if facts.max_length not in (None, plan.max_length):
        raise NotAgreed("model", f"records of {plan.max_length} tokens, {facts.max_length} configured here")
    if plan.minimum_cohort < rules.minimum_cohort:
        raise NotAgreed("policy", f"minimum cohort {plan.minimum_cohort}, {rules.minimum_cohort} required here")
    if facts.records < max(1, rules.minimum_records):
        raise NotAgreed("data", f"{facts.records} records, {rules.minimum_records} required here")
    if {b.name: b.size for b in plan.encoding.blocks} != {UPDATE: plan.layout.size(trained=True), LOSS: 1}:
        raise NotAgreed("plan", "the encoding is not that of a training query")
    if plan.dp is not None:
        _check_privacy(plan, plan.dp, rules, facts)
    elif not rules.allow_without_privacy:
        raise NotAgreed("policy", "the plan has no differential privacy, which has to be allowed here by name")


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
        raise NotAgreed("plan", "the query names another plan than the accepted one")
    if not 1 <= query.round <= plan.rounds or query.attempt < 1:
        raise NotAgreed("plan", f"round {query.round} of {plan.rounds}")
    # A plan with a seed is for tests: the same query gives the same update, so asking again tells nothing new.
    if plan.seed is None and opened and (query.round, query.attempt) <= max(opened):
        raise NotAgreed("state", f"round {query.round}, attempt {query.attempt} is not later than those before it")
    if plan.dp is not None and len(opened) >= plan.rounds:
        raise NotAgreed("budget", f"{len(opened)} of {plan.rounds} rounds are spent")


def _check_privacy(plan: Plan, dp: DpPlan, rules: Rules, facts: Facts) -> None:
    size = facts.records if dp.unit == "record" else facts.patients
    if size is None:
        raise NotAgreed("data", "the plan hides patients, and the records here do not say whose they are")
    if dp.delta * size >= 1:
        raise NotAgreed("policy", f"delta is not below 1 / number of {dp.unit}s")
    if dp.epsilon > rules.max_epsilon:
        raise NotAgreed("policy", f"epsilon {dp.epsilon}, at most {rules.max_epsilon} here")
    events = dp.events(steps=plan.steps, size=plan.layout.size(trained=True))
    try:
        spent = epsilon([events.at_site(records=size)], delta=dp.delta).epsilon
    except Refused as err:
        raise NotAgreed("policy", "the plan's noise is too small to be accounted for") from err
    if spent > dp.epsilon:
        raise NotAgreed("policy", f"the plan's noise gives epsilon {spent:.4f} here, more than its {dp.epsilon}")
