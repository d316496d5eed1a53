"""What the coordinator keeps of the secure sum: whole or absent, and damage has a name."""

import json
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partsong.common.errors import DataError
from partsong.common.secure_sum.recompute import prove_block
from partsong.common.secure_sum.transcript import RunFacts
from partsong.server.secure_sum.sum_journal import KeptResult, Spooled, SumJournal
from partsong.simulations.secure_sum import found

FACTS = RunFacts(charter=found(["a", "b", "c"]).charter, setup=bytes(range(32)), members=(0, 1, 2))


@pytest.fixture
def journal(tmp_path: Path) -> SumJournal:
    return SumJournal(tmp_path / "new" / "coordinator")


def kept(round_: int, number: int) -> KeptResult:
    return KeptResult(round=round_, number=number, roster=("a", "b", "c"))


def test_what_set_up_ended_with_is_read_back(journal: SumJournal) -> None:
    """Nothing before it was saved; then the same, for the same plan and charter."""
    assert journal.load_run(FACTS.charter, plan_sha256="p") is None
    journal.save_run(FACTS, plan_sha256="p")

    assert SumJournal(journal.folder).load_run(FACTS.charter, plan_sha256="p") == FACTS


def test_keys_of_another_plan_or_charter_are_not_taken(journal: SumJournal) -> None:
    """Another run's directory is refused by name."""
    journal.save_run(FACTS, plan_sha256="p")

    with pytest.raises(DataError, match="keys of this plan"):
        journal.load_run(FACTS.charter, plan_sha256="q")
    with pytest.raises(DataError, match="keys of this plan"):
        journal.load_run(replace(FACTS.charter, consortium="other"), plan_sha256="p")


@pytest.mark.parametrize(
    "change",
    [
        {"setup": "ab"}, {"setup": "zz" * 32}, {"setup": 3}, {"members": [0, 1, 3]}, {"members": [-1, 0, 1]},
        {"members": "012"}, {"members": []}, {"members": [True, 1, 2]}, {"members": 7}, {"plan": None},
    ],
    ids=repr,
)  # fmt: skip
def test_a_changed_run_file_is_refused_by_name(journal: SumJournal, change: dict[str, Any]) -> None:
    """Each field, of whatever type."""
    journal.save_run(FACTS, plan_sha256="p")
    file = journal.folder / "run.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))

    with pytest.raises(DataError, match=r"run\.json: found a damaged file"):
        journal.load_run(FACTS.charter, plan_sha256="p")


@given(data=st.binary(max_size=40))
def test_a_run_file_of_any_bytes_is_refused_by_name(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    """No bytes lead to another error."""
    journal = SumJournal(tmp_path_factory.mktemp("j"))
    (journal.folder / "run.json").write_bytes(data)

    with pytest.raises(DataError, match=r"run\.json"):
        journal.load_run(FACTS.charter, plan_sha256="p")


def test_no_number_is_used_twice(journal: SumJournal) -> None:
    """Also by the next process, and after a line that a crash tore."""
    first = [journal.next_round(number=1, attempt=1), journal.next_round(number=1, attempt=2)]
    with (journal.folder / "opened.jsonl").open("ab") as file:
        file.write(b'{"opened": 9')

    assert [*first, SumJournal(journal.folder).next_round(number=2, attempt=1)] == [1, 2, 3]


@pytest.mark.parametrize("line", ["7", "{}", '{"opened": "3", "round": 1}', '{"opened": 1.5, "round": 1}', "no json"])
def test_a_damaged_list_of_rounds_gives_no_number(journal: SumJournal, line: str) -> None:
    """Which are used is unknown then, so none is given."""
    journal.next_round(number=1, attempt=1)
    with (journal.folder / "opened.jsonl").open("a") as file:
        file.write(line + "\n")

    with pytest.raises(DataError, match=r"opened\.jsonl"):
        journal.next_round(number=2, attempt=1)


def test_results_are_listed_once_they_are_whole(journal: SumJournal) -> None:
    """A file without its line, as a kill between the two leaves it, does not count and is in nobody's way."""
    journal.keep(kept(1, 1), b"one")
    (journal.folder / "results" / "000003.result").write_bytes(b"not listed")

    assert SumJournal(journal.folder).results() == [kept(1, 1)]
    journal.keep(kept(3, 2), b"three")
    assert SumJournal(journal.folder).results() == [kept(1, 1), kept(3, 2)]
    assert journal.read(kept(3, 2)) == b"three"


@pytest.mark.parametrize(
    "line",
    ['{"opened": 1, "round": 1}', '{"opened": 1, "round": 1, "roster": 5}', '{"opened": null, "round": 1}', "[]"],
)
def test_a_damaged_list_of_results_is_refused_by_name(journal: SumJournal, line: str) -> None:
    """Each field, and a result that is gone."""
    journal.keep(kept(1, 1), b"one")
    (journal.folder / "results" / "000001.result").unlink()
    with pytest.raises(DataError, match=r"results/000001\.result"):
        journal.read(kept(1, 1))
    with (journal.folder / "results.jsonl").open("a") as file:
        file.write(line + "\n")

    with pytest.raises(DataError, match=r"results\.jsonl"):
        journal.results()


def test_the_spool_keeps_the_newest_rounds(journal: SumJournal) -> None:
    """What it takes to recompute a round, until its window is over; aborted rounds count like others."""
    for round_ in (1, 2, 10):
        journal.spool_report(round_, site=3, words=bytes([round_]))
        journal.spool_unmask(round_, site=4, message=b"u")

    journal.end_windows(keep=2)

    assert journal.spooled(1) is None
    assert journal.spooled(10) == Spooled(vectors={3: b"\x0a"}, unmasks={4: b"u"})
    journal.end_windows(keep=0)
    assert journal.spooled(10) is None


def test_a_half_written_file_of_the_spool_is_left_out(journal: SumJournal) -> None:
    """A kill in the middle of a write leaves it under another name."""
    journal.spool_report(1, site=3, words=b"w")
    (journal.folder / "spool" / "000001" / ".4.words.part").write_bytes(b"half")

    assert journal.spooled(1) == Spooled(vectors={3: b"w"}, unmasks={})


def test_the_journal_holds_what_the_sites_made(wired: Callable[..., Any]) -> None:
    """After a run: every OPEN, every result, and what checks the newest two rounds."""
    made = wired()
    made.play(to=3)
    journal = made.journal

    assert [k.number for k in journal.results()] == [1, 2, 3]
    assert journal.next_round(number=4, attempt=1) == 4
    assert journal.spooled(1) is None
    spooled = journal.spooled(3)
    assert spooled is not None
    assert set(spooled.vectors) == set(spooled.unmasks) == {0, 1, 2, 3, 4}


@pytest.mark.parametrize("at_once", [False, True], ids=["as it is", "control"])
def test_a_block_is_proven_with_one_vector_in_memory(journal: SumJournal, *, at_once: bool) -> None:
    """Not with those of all sites; the control reads them before."""
    size = 1 << 20
    for site in range(8):
        journal.spool_report(1, site=site, words=bytes([site]) * size)
    spooled = journal.spooled(1)
    assert spooled is not None

    tracemalloc.start()
    try:
        vectors = dict(spooled.vectors) if at_once else spooled.vectors
        prove_block(context=bytes(32), leaf=3, vectors=vectors, unmasks=())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert (peak < 3 * size) is not at_once
