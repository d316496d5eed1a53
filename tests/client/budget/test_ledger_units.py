"""A holding's budget is for records or for patients, and never for a mixture that would mean neither."""

import dataclasses
from pathlib import Path

import pytest

from partsong.client.budget.ledger import Claim, Ledger
from partsong.common.build import build, to_tree
from partsong.common.errors import Refused
from partsong.common.privacy.accounting import StepEvents, Unit


def claim(context: str, unit: Unit) -> Claim:
    """One round of four steps at a site with two hundred units."""
    events = StepEvents(sampling_rate=0.05, noise_multiplier=1.0, steps=4, unit=unit).at_site(records=200)
    return Claim(
        holding="ward", context=context, purpose="train", run="run-1", coordinator="c0", fingerprint="f0",
        events=(events,),
    )  # fmt: skip


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """A ledger with one holding."""
    ledger = Ledger(tmp_path / "ledger.db")
    ledger.set_ceiling("ward", epsilon=50.0, delta=1e-5)
    return ledger


@pytest.mark.parametrize(("first", "second"), [("record", "patient"), ("patient", "record")])
def test_a_query_of_the_other_unit_is_refused_and_leaves_no_trace(ledger: Ledger, first: Unit, second: Unit) -> None:
    """Before a record is read; the unit that the holding began with goes on."""
    ledger.reserve(claim("a", first))
    head = ledger.head

    with pytest.raises(Refused, match="mixed_units"):
        ledger.reserve(claim("b", second))

    assert ledger.head == head
    assert ledger.reserve(claim("c", first)).unit == ledger.spent("ward").unit == first


def test_the_unit_survives_a_restart(tmp_path: Path, ledger: Ledger) -> None:
    """It stands in the entry; an entry from before there was a choice counts records."""
    ledger.reserve(claim("a", "patient"))
    ledger.close()

    again = Ledger(tmp_path / "ledger.db")

    assert again.spent("ward").unit == "patient"
    again.close()
    tree = to_tree(claim("a", "record"))
    del tree["events"][0]["unit"]
    assert build(Claim, tree) == claim("a", "record")
    assert dataclasses.replace(claim("a", "record").events[0], unit="patient") == claim("a", "patient").events[0]
