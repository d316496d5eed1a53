"""A ledger as people and programs read it. It holds counts of records: for the site's own eyes.

Every epsilon comes with its delta, its accountant and the neighbouring relation it is meant for.
"""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from typing import Any

from partsong.client.chain import Entry, Head
from partsong.client.ledger import Ledger
from partsong.common.accounting import NEIGHBOURS, Spend

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
class HoldingSummary:
    """Where one holding stands."""

    name: str
    ceiling: float | None
    """Lifetime epsilon; None: no ceiling."""
    spent: Spend
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


def to_json(ledger: Ledger) -> str:
    """Write everything: summaries, verdict, entries."""
    verdict = verify(ledger)
    tree = {
        "neighbours": NEIGHBOURS,
        "unit": "record",
        "head": {"number": verdict.head.number, "digest": verdict.head.digest},
        "anchored": verdict.anchored and {"number": verdict.anchored.number, "digest": verdict.anchored.digest},
        "outstanding": verdict.outstanding,
        "holdings": [
            {
                "name": s.name,
                "ceiling": s.ceiling,
                "epsilon": s.spent.epsilon if s.spent.epsilon < float("inf") else "unbounded",
                "delta": s.spent.delta,
                "accountant": s.spent.accountant,
                "claims": s.claims,
                "fingerprint": s.fingerprint,
            }
            for s in summaries(ledger)
        ],
        "entries": [
            {"number": e.number, "time_ms": e.time_ms, "kind": e.kind, "body": json.loads(e.body), "digest": e.digest}
            for e in ledger.entries()
        ],
    }
    return json.dumps(tree, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


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
    holding = ledger.holding(name)
    return HoldingSummary(
        name=name,
        ceiling=holding.ceiling,
        spent=ledger.spent(name),
        claims=len(holding.claims),
        fingerprint=holding.fingerprint,
    )
