"""A ledger has to hold the newest commit that was made on its directory."""

import contextlib
import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partsong.client.budget.chain import Head
from partsong.client.budget.ledger import Claim, Ledger
from partsong.client.budget.remembered import RememberedHead
from partsong.common.errors import DataError, Refused
from partsong.common.privacy.accounting import StepEvents

EVENTS = (StepEvents(sampling_rate=0.05, noise_multiplier=1.0, steps=1),)


def claim(context: str) -> Claim:
    return Claim(
        holding="ward", context=context, purpose="train", run="r", coordinator="c", fingerprint="f", events=EVENTS
    )


def opened(folder: Path) -> contextlib.closing[Ledger]:
    return contextlib.closing(Ledger(folder / "ledger.sqlite", remembered=RememberedHead(folder / "head.json")))


def spend(folder: Path, context: str, *, commit: bool = True) -> None:
    with opened(folder) as ledger:
        ledger.set_ceiling("ward", epsilon=8.0, delta=1e-5)
        ledger.reserve(claim(context))
        if commit:
            ledger.commit(context)


def test_what_is_remembered_is_the_newest_commit(tmp_path: Path) -> None:
    """By hand: the entry that the commit returned, through later entries that spend nothing."""
    with opened(tmp_path) as ledger:
        ledger.set_ceiling("ward", epsilon=8.0, delta=1e-5)
        ledger.reserve(claim("1"))
        head = ledger.commit("1")
        ledger.reserve(claim("2"))
        ledger.release("2")

    assert RememberedHead(tmp_path / "head.json").read() == head


@settings(max_examples=25, deadline=None)
@given(acts=st.lists(st.booleans(), min_size=1, max_size=4), back=st.integers(0, 3))
def test_a_backup_is_refused_exactly_if_something_was_committed_since(
    acts: list[bool], back: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Reservations that were never committed were never sealed; the backup without them may be worked on."""
    folder, taken = tmp_path_factory.mktemp("site"), back % len(acts)
    for number, commit in enumerate(acts):
        if number == taken:
            with opened(folder):
                pass
            shutil.copy(folder / "ledger.sqlite", folder / "backup")
        spend(folder, str(number), commit=commit)
    shutil.copy(folder / "backup", folder / "ledger.sqlite")

    try:
        with opened(folder):
            refused = False
    except Refused as err:
        refused = err.rule == "ledger_rolled_back"

    assert refused == any(acts[taken:])


def test_a_ledger_begun_anew_or_of_another_site_is_refused(tmp_path: Path) -> None:
    """Nothing is spent from it, at the second try neither."""
    spend(tmp_path, "1")
    (tmp_path / "ledger.sqlite").unlink()
    for _ in range(2):
        with pytest.raises(Refused, match="entry 4"), opened(tmp_path):
            pass
    other = tmp_path / "other"
    other.mkdir()
    spend(other, "1")
    shutil.copy(other / "ledger.sqlite", tmp_path / "ledger.sqlite")

    with pytest.raises(Refused, match="ledger_rolled_back"), opened(tmp_path):
        pass


def test_a_crash_between_a_commit_and_its_memory_harms_nothing(tmp_path: Path) -> None:
    """The memory is then older than the ledger, which holds it."""
    spend(tmp_path, "1")
    before = (tmp_path / "head.json").read_bytes()
    spend(tmp_path, "2")
    (tmp_path / "head.json").write_bytes(before)

    spend(tmp_path, "3")

    with opened(tmp_path) as ledger:
        assert [ledger.state(context) for context in "123"] == ["committed"] * 3


def test_without_a_memory_the_backup_goes_unnoticed(tmp_path: Path) -> None:
    """The control: it is the file that tells."""
    with opened(tmp_path):
        pass
    shutil.copy(tmp_path / "ledger.sqlite", tmp_path / "backup")
    spend(tmp_path, "1")
    shutil.move(tmp_path / "backup", tmp_path / "ledger.sqlite")
    (tmp_path / "head.json").unlink()

    with opened(tmp_path) as ledger:
        assert ledger.state("1") is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[]",
        "no json",
        json.dumps({"number": 0, "digest": "0" * 64}),
        json.dumps({"number": 1, "digest": "0g"}),
    ],
)
def test_a_damaged_memory_is_no_missing_one(text: str, tmp_path: Path) -> None:
    """Otherwise spoiling the file would be as good as removing it."""
    (tmp_path / "head.json").write_text(text)

    with pytest.raises(DataError, match="damaged"), opened(tmp_path):
        pass


def test_a_head_survives_being_written(tmp_path: Path) -> None:
    """As it was, and the newest only."""
    memory = RememberedHead(tmp_path / "head.json")
    memory.keep(Head(number=1, digest="ab" * 32))

    memory.keep(Head(number=9, digest="cd" * 32))

    assert memory.read() == Head(number=9, digest="cd" * 32)
