"""What is exported is what is in the ledger, with everything that an epsilon needs beside it."""

import csv
import io
import json
import sqlite3
from pathlib import Path

import pytest

from partsong.client.budget.ledger import Claim, Ledger
from partsong.client.budget.ledger_export import COLUMNS, summaries, to_csv, to_json, verify
from partsong.common.errors import Refused
from partsong.common.privacy.accounting import NEIGHBOURS, StepEvents, epsilon

EVENT = StepEvents(sampling_rate=0.05, noise_multiplier=0.45, steps=2)


def claim(context: str, **changes: object) -> Claim:
    given = {
        "holding": "ward, west",
        "context": context,
        "purpose": "train",
        "run": "r",
        "coordinator": "c",
        "fingerprint": "f",
        "events": (EVENT, EVENT),
    }
    return Claim(**given | changes)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    ledger = Ledger(tmp_path / "ledger.db", clock=lambda: 5.0)
    ledger.set_ceiling("ward, west", epsilon=100.0, delta=1e-5)
    ledger.reserve(claim("a"))
    ledger.commit("a")
    ledger.reserve(claim("b"))
    return ledger


def test_json_holds_spends_with_delta_accountant_and_relation(ledger: Ledger) -> None:
    """Nobody has to guess what an epsilon means."""
    tree = json.loads(to_json(ledger))

    (holding,) = tree["holdings"]
    spend = epsilon([EVENT] * 4, delta=1e-5)
    assert (holding["epsilon"], holding["delta"], holding["accountant"]) == (spend.epsilon, 1e-5, "pld")
    assert {(h["neighbours"], h["unit"]) for h in tree["holdings"]} == {(NEIGHBOURS, "record")}
    assert [e["kind"] for e in tree["entries"]] == ["opened", "ceiling", "reserved", "committed", "reserved"]
    assert tree["head"]["digest"] == tree["entries"][-1]["digest"]
    assert tree["outstanding"] == ["b"]


def test_a_spend_without_bound_is_a_word_not_a_number(ledger: Ledger) -> None:
    """JSON has no infinity."""
    ledger.set_ceiling("ward, west", epsilon=None, delta=1e-5)
    ledger.reserve(claim("bare", events=(), protected=False))

    assert json.loads(to_json(ledger))["holdings"][0]["epsilon"] == "unbounded"


def test_csv_has_a_line_for_each_event_and_reads_back(ledger: Ledger) -> None:
    """Commas in names are quoted; an entry without events takes one line."""
    rows = list(csv.DictReader(io.StringIO(to_csv(ledger))))

    assert tuple(rows[0]) == COLUMNS
    assert [r["kind"] for r in rows] == [
        "opened",
        "ceiling",
        "reserved",
        "reserved",
        "committed",
        "reserved",
        "reserved",
    ]
    assert {r["holding"] for r in rows if r["kind"] == "reserved"} == {"ward, west"}
    assert sum(int(r["steps"]) for r in rows if r["steps"]) == 8


def test_a_summary_says_where_each_holding_stands(ledger: Ledger) -> None:
    """Ceiling, spend and number of claims."""
    (summary,) = summaries(ledger)

    assert (summary.ceiling, summary.claims, summary.fingerprint) == (100.0, 2, "f")
    assert summary.spent == ledger.spent("ward, west")


def test_a_verdict_says_whether_others_vouch(ledger: Ledger) -> None:
    """Without an anchor it says None."""
    before = verify(ledger)
    ledger.anchor(before.head, witnesses=["site-b"])

    after = verify(ledger)

    assert (before.entries, before.anchored) == (5, None)
    assert (after.entries, after.anchored) == (6, before.head)


def test_damage_is_not_exported(ledger: Ledger, tmp_path: Path) -> None:
    """A ledger that does not add up gives no numbers."""
    ledger.close()
    db = sqlite3.connect(tmp_path / "ledger.db")
    db.executescript("DROP TRIGGER entry_is_never_changed; UPDATE entry SET kind = 'released' WHERE number = 4")
    db.close()

    with pytest.raises(Refused, match="ledger_damaged"):
        to_json(Ledger(tmp_path / "ledger.db"))
