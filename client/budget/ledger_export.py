"""A ledger as people and programs read it. It holds counts of records: for the site's own eyes.

Every epsilon comes with its delta, its accountant and the neighbouring relation it is meant for.
"""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from typing import Any

from partsong.client.budget.books import MS_PER_DAY, quarter, spend, spend_alone
from partsong.client.budget.chain import Entry, Head
from partsong.client.budget.ledger import Ledger
from partsong.common.privacy.accounting import Spend, neighbours

COLUMNS = (
    "number",
    "time_ms",
    "kind",
    "holding",
    "context",
    "purpose",
    "run",
    "coordinator",
    "fingerprint",
    "steps",
    "sampling_rate",
    "noise_multiplier",
    "digest",
)
"""Of the CSV export; a claim of several events takes one line for each."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ration:
    """What a part of the queries has taken, and may take."""

    name: str
    """`purpose train`, `quarter 2026-Q4`."""
    spent: Spend
    most: float | None
    """Epsilon; None: no ration."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HoldingSummary:
    """Where one holding stands."""

    name: str
    ceiling: float | None
    """Lifetime epsilon; None: no ceiling."""
    spent: Spend
    alone: Spend
    """The same, if all other sites worked with the coordinator: they could take their shares off noise on the sum."""
    rations: tuple[Ration, ...]
    """By purpose, and of the current quarter."""
    unfinished_today: int
    """Queries reserved today (UTC) and not committed."""
    unfinished_per_day: int | None
    """Most of them; None: any number."""
    claims: int
    """Reserved and committed."""
    fingerprint: str | None
    """Of the records at the last claim."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What a check of the whole ledger found; damage raises instead."""

    entries: int
    head: Head
    anchored: Head | None
    """Up to here others vouch. None: a copy put back from a backup would look the same."""
    outstanding: tuple[str, ...]
    """Reserved contexts of which nothing more is known; they count as spent."""


def verify(ledger: Ledger) -> Verdict:
    """Check every entry and the story that they tell.

    Raises:
        Refused: `ledger_damaged`, `ledger_rolled_back` or `ledger_replaced`.
    """
    entries = ledger.entries()
    return Verdict(entries=len(entries), head=ledger.head, anchored=ledger.anchored, outstanding=ledger.outstanding())


def summaries(ledger: Ledger) -> tuple[HoldingSummary, ...]:
    """Give one summary for each holding, in the order they were named."""
    return tuple(_summary(ledger, name) for name in ledger.holdings())


def to_tree(ledger: Ledger, *, entries: bool = True) -> dict[str, Any]:
    """Give everything as mappings, lists and scalars: summaries, verdict and, if asked for, entries."""
    verdict = verify(ledger)
    tree: dict[str, Any] = {
        "head": _head(verdict.head),
        "anchored": verdict.anchored and _head(verdict.anchored),
        "outstanding": list(verdict.outstanding),
        "holdings": [_holding(summary) for summary in summaries(ledger)],
    }
    if entries:
        tree["entries"] = [
            {"number": e.number, "time_ms": e.time_ms, "kind": e.kind, "body": json.loads(e.body), "digest": e.digest}
            for e in ledger.entries()
        ]
    return tree


def to_json(ledger: Ledger) -> str:
    """Write everything: summaries, verdict, entries."""
    return json.dumps(to_tree(ledger), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def to_csv(ledger: Ledger) -> str:
    """Write the entries as a table with the header `COLUMNS`."""
    out = io.StringIO()
    table = csv.DictWriter(out, COLUMNS, restval="", extrasaction="ignore", lineterminator="\n")
    table.writeheader()
    for entry in ledger.entries():
        table.writerows(_rows(entry))
    return out.getvalue()


def _rows(entry: Entry) -> list[dict[str, Any]]:
    body = json.loads(entry.body)
    fixed = {"number": entry.number, "time_ms": entry.time_ms, "kind": entry.kind, "digest": entry.digest}
    return [{**body, **fixed, **event} for event in body.get("events") or [{}]]


def _summary(ledger: Ledger, name: str) -> HoldingSummary:
    holding, now_ms = ledger.holding(name), ledger.now_ms
    grant, purposes = holding.grant, sorted({*holding.grant.purposes, *(c.purpose for c in holding.claims.values())})
    parts = [(f"purpose {purpose}", holding.of_purpose(purpose), grant.purposes.get(purpose)) for purpose in purposes]
    parts.append((f"quarter {quarter(now_ms)}", holding.of_quarter(now_ms), grant.per_quarter))
    return HoldingSummary(
        name=name,
        ceiling=holding.ceiling,
        spent=ledger.spent(name),
        alone=spend_alone(holding.claims.values(), delta=holding.delta),
        rations=tuple(Ration(name=n, spent=spend(of, delta=holding.delta), most=most) for n, of, most in parts),
        unfinished_today=holding.unfinished.get(now_ms // MS_PER_DAY, 0),
        unfinished_per_day=grant.unfinished_per_day,
        claims=len(holding.claims),
        fingerprint=holding.fingerprint,
    )


def _holding(summary: HoldingSummary) -> dict[str, Any]:
    return {
        "name": summary.name,
        "ceiling": summary.ceiling,
        "epsilon": _number(summary.spent),
        "epsilon_alone": _number(summary.alone),
        "unit": summary.spent.unit,
        "neighbours": neighbours(summary.spent.unit),
        "delta": summary.spent.delta,
        "accountant": summary.spent.accountant,
        "rations": [{"name": r.name, "epsilon": _number(r.spent), "most": r.most} for r in summary.rations],
        "unfinished_today": summary.unfinished_today,
        "unfinished_per_day": summary.unfinished_per_day,
        "claims": summary.claims,
        "fingerprint": summary.fingerprint,
    }


def _head(head: Head) -> dict[str, Any]:
    return {"number": head.number, "digest": head.digest}


def _number(spent: Spend) -> float | str:
    """JSON has no infinity."""
    return spent.epsilon if spent.epsilon < float("inf") else "unbounded"
