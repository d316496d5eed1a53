"""What a site's dashboard shows, read from the site's directory for each page.

Covers: plans, budgets, bytes and digests; no text of a record, no update, key or loss.
Does not cover: counts of records, which entries of the ledger hold: those are left out.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from partsong.client.adapters.store import AdapterStore
from partsong.client.budget.chain import Entry
from partsong.client.budget.ledger import Ledger
from partsong.client.budget.ledger_export import HoldingSummary, Ration, summaries
from partsong.client.daemon.plan_folder import PlanFolder
from partsong.client.home.layout import SiteHome
from partsong.client.link.outbox import Departure
from partsong.client.rules.approval import Approvals, Decision
from partsong.client.rules.plan_words import size, summary
from partsong.common.dashboard.frame import moment
from partsong.common.files import read_lines
from partsong.common.plan import Plan
from partsong.common.privacy.accounting import neighbours

NEWEST_ENTRIES = 30
ENTRY_HEAD = ("entry", "time", "kind", "digest")
LEFT_HEAD = ("day (UTC)", "messages", "bytes")
PLAN_HEAD = ("run", "plan", "queries answered with a vector", "bytes of each", "form")
ADAPTER_HEAD = ("run", "stored", "in use", "plan", "adapter sha256")


@dataclass(frozen=True, kw_only=True, slots=True)
class Gauge:
    """How much of a budget is spent."""

    words: str
    value: float
    most: float | None
    """None: no ceiling, so there is nothing to fill."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HoldingView:
    """One holding's budgets."""

    name: str
    gauges: tuple[Gauge, ...]
    """The lifetime first, then the rations."""
    terms: str
    """Delta, unit, accountant."""
    neighbours: str


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanView:
    """One plan, as a person has to see it before deciding."""

    decision: Decision
    summary: tuple[str, ...]
    changes: tuple[str, ...]
    """From the last approved job of this purpose, the weightiest first."""
    can_approve: bool
    can_refuse: bool


def holdings_of(ledger: Ledger) -> tuple[HoldingView, ...]:
    """Give every holding's budgets.

    Raises:
        Refused: the ledger does not add up.
    """
    return tuple(map(_holding, summaries(ledger)))


def plan_of(approvals: Approvals, decision: Decision) -> PlanView:
    """Put a plan together.

    Raises:
        DataError: the plan's file is gone or damaged.
    """
    by_policy = decision.state == "refused" and decision.by == "policy"
    return PlanView(
        decision=decision,
        summary=summary(approvals.plan(decision.plan_sha256)),
        changes=approvals.changes(decision),
        can_approve=decision.state != "approved" and not by_policy,
        can_refuse=decision.state != "refused",
    )


def newest_entries(entries: Sequence[Entry]) -> list[tuple[str, ...]]:
    """Give the newest entries of the ledger, without their bodies: those hold counts of records."""
    newest = entries[: -NEWEST_ENTRIES - 1 : -1]
    return [(str(entry.number), moment(entry.time_ms), entry.kind, entry.digest[:16]) for entry in newest]


def departures_by_day(departures: Sequence[Departure]) -> list[tuple[str, ...]]:
    """Add up what was sent, day by day, the newest first."""
    days = [datetime.fromtimestamp(one.at_s, tz=UTC).date().isoformat() for one in departures]
    count, total = Counter(days), Counter[str]()
    for day, one in zip(days, departures, strict=True):
        total[day] += one.bytes_out
    return [(day, str(count[day]), f"{total[day]:,}") for day in sorted(count, reverse=True)]


def vectors_by_plan(approvals: Approvals, home: SiteHome) -> list[tuple[str, ...]]:
    """Say of each approved plan how many vectors it was given, and in which form; the newest plan first."""
    approved = [decision for decision in approvals.all() if decision.state == "approved"]
    return [_vector_row(approvals.plan(one.plan_sha256), home) for one in reversed(approved)]


def adapter_rows(store: AdapterStore) -> list[tuple[str, ...]]:
    """List the stored adapters, the newest first."""
    current = store.current()
    used = None if current is None else current.plan
    return [
        (one.run, moment(one.stored_ms), "yes" if one.plan == used else "", one.plan[:12], one.adapter)
        for one in reversed(store.all())
    ]


def _vector_row(plan: Plan, home: SiteHome) -> tuple[str, ...]:
    rounds = {line["round"] for line in read_lines(PlanFolder(home.plans, plan.sha256).journal)}
    form = "masked: readable by nobody, only the sum opens" if plan.masked else "UNMASKED"
    return plan.run, plan.sha256[:12], str(len(rounds)), size(plan.sealed_bytes() // plan.queries), form


def _holding(found: HoldingSummary) -> HoldingView:
    spent = found.spent
    return HoldingView(
        name=found.name,
        gauges=(
            _gauge("whole life", spent.epsilon, found.ceiling),
            *(_gauge(ration.name, ration.spent.epsilon, ration.most) for ration in found.rations if _is_told(ration)),
        ),
        terms=f"delta {spent.delta:g}, one {spent.unit}, by {spent.accountant}; {found.claims} queries",
        neighbours=neighbours(spent.unit),
    )


def _is_told(ration: Ration) -> bool:
    return ration.most is not None or ration.spent.epsilon > 0


def _gauge(name: str, epsilon: float, most: float | None) -> Gauge:
    of = "no ceiling" if most is None else "CLOSED" if most == 0 else f"of {most:g}"
    value = epsilon if math.isfinite(epsilon) else (most or 0.0)
    return Gauge(words=f"{name}: epsilon {epsilon:.3g} {of}", value=value, most=most or None)
