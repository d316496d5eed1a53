"""The log keeps what it was given, in order, and notices what was done to it."""

import json
import sqlite3
import stat
import threading
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from partsong.client.budget import chain as module
from partsong.client.budget.chain import Chain, Head, digest_of
from partsong.common.errors import InputError, Refused, TryAgain


class Clock:
    """Seconds that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


def filled(path: Path, count: int = 5) -> Chain:
    chain = Chain(path, clock=Clock())
    for index in range(count):
        with chain.writing() as append:
            append("note", {"index": index})
    chain.read_new()
    return chain


def tamper(path: Path, *statements: str) -> None:
    """What someone with a SQLite shell would do: drop the triggers, then change things."""
    db = sqlite3.connect(path)
    db.executescript("DROP TRIGGER entry_is_never_changed; DROP TRIGGER entry_is_never_removed;" + ";".join(statements))
    db.close()


def test_entries_come_back_in_order_and_checked(path: Path) -> None:
    """What was appended is read by this process and the next one."""
    filled(path).close()

    entries = Chain(path).read_new()

    assert [json.loads(e.body)["index"] for e in entries] == [0, 1, 2, 3, 4]
    assert [e.number for e in entries] == [1, 2, 3, 4, 5]


def test_each_digest_binds_everything_before_it(path: Path) -> None:
    """The chain is computed a second time, by hand."""
    entries = filled(path).entries()

    previous = bytes(32)
    for entry in entries:
        previous = digest_of(previous, number=entry.number, time_ms=entry.time_ms, kind=entry.kind, body=entry.body)
        assert entry.digest == previous.hex()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE entry SET body = '{\"index\":7}' WHERE number = 3",
        "UPDATE entry SET kind = 'other' WHERE number = 3",
        "UPDATE entry SET time_ms = 1 WHERE number = 3",
        "UPDATE entry SET digest = zeroblob(32) WHERE number = 5",
        "DELETE FROM entry WHERE number = 3",
        "UPDATE entry SET number = 9 WHERE number = 5",
        "INSERT INTO entry SELECT 6, time_ms, kind, body, digest FROM entry WHERE number = 5",
        "UPDATE entry SET body = (SELECT body FROM entry WHERE number = 1) WHERE number = 2",
    ],
)
def test_an_edit_is_found_at_the_next_start(path: Path, statement: str) -> None:
    """Changed, removed, renumbered, copied or swapped: the chain does not add up."""
    filled(path).close()
    tamper(path, statement)

    with pytest.raises(Refused, match="ledger_damaged"):
        Chain(path).read_new()


def test_an_untouched_log_passes_the_same_check(path: Path) -> None:
    """The control: dropping triggers alone changes no entry."""
    filled(path).close()
    tamper(path)

    assert len(Chain(path).read_new()) == 5


def test_a_shortened_log_is_found_by_who_remembers_its_head(path: Path) -> None:
    """The last entries cut off leave a valid chain, but not the one that was seen."""
    chain = filled(path)
    head = chain.head
    chain.close()
    tamper(path, "DELETE FROM entry WHERE number > 3")

    shorter = Chain(path)

    assert len(shorter.read_new()) == 3
    assert not shorter.contains(head)
    assert shorter.contains(shorter.head)
    assert not shorter.contains(Head(number=3, digest=head.digest))


def test_a_rollback_under_a_running_process_is_found(path: Path) -> None:
    """The process itself remembers what it has read."""
    chain = filled(path)
    tamper(path, "DELETE FROM entry WHERE number > 3")

    with pytest.raises(Refused, match="ledger_rolled_back"):
        chain.read_new()


def test_an_exchanged_file_is_found_by_a_running_process(path: Path, tmp_path: Path) -> None:
    """A backup moved over the file in use would otherwise be written past."""
    chain = filled(path)
    other = tmp_path / "backup.db"
    filled(other, 2).close()
    other.replace(path)

    with pytest.raises(Refused, match="ledger_replaced"), chain.writing() as append:
        append("note", {})


def test_sqlite_itself_refuses_to_change_entries(path: Path) -> None:
    """Not even a bug of ours can update or delete."""
    chain = filled(path)

    for statement in ("UPDATE entry SET kind = 'x'", "DELETE FROM entry"):
        with pytest.raises(sqlite3.IntegrityError, match="append only"):
            chain._db.execute(statement)


def test_a_failed_transaction_leaves_nothing(path: Path) -> None:
    """Whatever was appended before the exception is not there."""
    chain = filled(path)

    with pytest.raises(ZeroDivisionError), chain.writing() as append:
        append("note", {"index": 1 / append("note", {}).number - 1 / 0})

    assert len(chain.entries()) == 5
    with chain.writing() as append:
        assert append("note", {}).number == 6


def test_a_clock_set_back_keeps_times_in_order(path: Path) -> None:
    """Times never decrease, so that rationing by time cannot be undone by the clock."""
    clock = Clock()
    chain = Chain(path, clock=clock)
    for now in (1000.0, 10.0, 999.0, 2000.0):
        clock.now = now
        with chain.writing() as append:
            append("note", {})

    times = [e.time_ms for e in chain.read_new()]

    assert times == [1_000_000, 1_000_000, 1_000_000, 2_000_000]


def test_the_file_is_the_users_alone(path: Path) -> None:
    """Nobody else reads how many records a site holds."""
    filled(path)

    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_commits_wait_for_the_disk(path: Path) -> None:
    """EXTRA (3) also syncs the folder after the journal is gone; anything less could forget a commit."""
    chain = filled(path)

    assert chain._db.execute("PRAGMA synchronous").fetchone() == (3,)
    assert chain._db.execute("PRAGMA journal_mode").fetchone() == ("delete",)


def test_a_full_disk_records_nothing_and_says_try_again(path: Path) -> None:
    """SQLite's page limit stands in for the disk; afterwards the log goes on."""
    chain = filled(path)
    pages = chain._db.execute("PRAGMA page_count").fetchone()[0]
    chain._db.execute(f"PRAGMA max_page_count = {pages}")

    with pytest.raises(TryAgain, match="no space"), chain.writing() as append:
        append("note", {"text": "x" * 100_000})

    assert len(chain.entries()) == 5
    chain._db.execute("PRAGMA max_page_count = 1000000")
    with chain.writing() as append:
        append("note", {})
    assert len(chain.read_new()) == 1


def test_a_holder_that_does_not_let_go_is_answered_with_try_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting ends; nothing was recorded."""
    holder = filled(path)
    monkeypatch.setattr(module, "BUSY_TIMEOUT_S", 0.05)
    other = None

    with holder.writing(), pytest.raises(TryAgain, match="another process"):
        other = Chain(path)

    assert other is None


@pytest.mark.parametrize("content", [b"not a database at all" * 100, b"SQLite format 3\0" + b"\xff" * 4096])
def test_a_file_that_is_no_log_is_refused(path: Path, content: bytes) -> None:
    """Garbage is not overwritten."""
    path.write_bytes(content)

    with pytest.raises(Refused, match="ledger_damaged"):
        Chain(path)

    assert path.read_bytes() == content


def test_a_newer_format_is_refused_by_number(path: Path) -> None:
    """An older program does not write into a newer log."""
    filled(path).close()
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version = 2")
    db.close()

    with pytest.raises(InputError, match="format 2"):
        Chain(path)


def test_a_missing_folder_is_the_users_error(tmp_path: Path) -> None:
    """Nothing is created on the way."""
    with pytest.raises(InputError, match="no access"):
        Chain(tmp_path / "missing" / "ledger.db")


def test_threads_of_one_process_take_turns(path: Path) -> None:
    """Eight threads, ten entries each: all there, the chain unbroken."""
    chain = Chain(path, clock=Clock())

    def work() -> None:
        for _ in range(10):
            with chain.writing() as append:
                append("note", {})

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(chain.entries()) == 80


@example(position=4039, flip=128)
@settings(deadline=None, max_examples=20)
@given(position=st.integers(0, 10**6), flip=st.integers(1, 255))
def test_no_flipped_byte_goes_unnoticed(tmp_path_factory: pytest.TempPathFactory, position: int, flip: int) -> None:
    """Any byte of the file changed: the entries are refused, or they are what they were."""
    path = tmp_path_factory.mktemp("flip") / "ledger.db"
    entries = filled(path).entries()
    content = bytearray(path.read_bytes())
    content[position % len(content)] ^= flip
    path.write_bytes(content)

    try:
        found = Chain(path).read_new()
    except (Refused, InputError, TryAgain):
        return

    assert found == entries
