"""Answers on their way."""

import hashlib
from pathlib import Path

import pytest

from partsong.client.link.outbox import MEMORY_S, Departure, Outbox, Outgoing, Sealed, sent_lately
from partsong.common.errors import DataError

NOW_S = 1_800_000_000.0


def name(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def answer(question: str, *, run: int = 1, content: bytes = b"sealed", lives_s: int = 60) -> Outgoing:
    return Outgoing(
        question=name(question),
        run=run,
        node=5,
        expires_ms=int((NOW_S + lives_s) * 1000),
        envelope=b"envelope",
        tree=b"tree",
        parts=(Sealed(name=hashlib.sha256(content).digest(), content=content),),
    )


def opened(folder: Path, *, later_s: float = 0.0) -> Outbox:
    return Outbox(folder, clock=lambda: NOW_S + later_s)


def test_an_answer_waits_until_it_is_sent_and_is_known_afterwards(tmp_path: Path) -> None:
    """By new processes too; and the very bytes are there at every stage."""
    one = answer("q")

    opened(tmp_path).keep(one)
    waiting = list(opened(tmp_path).waiting())
    is_answered = opened(tmp_path).answered(name("q"))
    opened(tmp_path).sent(name("q"))

    assert waiting == [one]
    assert is_answered
    assert list(opened(tmp_path).waiting()) == []
    assert opened(tmp_path).answered(name("q"))
    assert opened(tmp_path).find(name("q")) == one
    assert not opened(tmp_path).answered(name("another"))


def test_the_bytes_go_with_the_runs_next_answer_and_the_record_stays(tmp_path: Path) -> None:
    """Another run's answer erases nothing."""
    box = opened(tmp_path)
    for question, run in (("a", 1), ("b", 2)):
        box.keep(answer(question, run=run))
        box.sent(name(question))

    box.keep(answer("c", run=1))

    assert box.find(name("a")) is None
    assert box.answered(name("a"))
    assert box.find(name("b")) is not None


def test_bytes_that_nobody_can_ask_for_any_longer_are_erased(tmp_path: Path) -> None:
    """Those of sent answers; one that waits still has to be given up by the connection."""
    box = opened(tmp_path)
    for question, lives_s in (("short", 60), ("long", 600)):
        box.keep(answer(question, run=lives_s, lives_s=lives_s))
        box.sent(name(question))
    box.keep(answer("waits", run=9))

    opened(tmp_path, later_s=120).tidy()

    assert box.find(name("short")) is None
    assert box.find(name("long")) is not None
    assert [a.question for a in box.waiting()] == [name("waits")]


def test_an_answer_that_is_given_up_is_erased_and_never_made_again(tmp_path: Path) -> None:
    """Dropped counts as answered."""
    box = opened(tmp_path)
    box.keep(answer("q"))

    box.drop(name("q"))

    assert list(box.waiting()) == []
    assert box.find(name("q")) is None
    assert opened(tmp_path).answered(name("q"))


def test_an_answer_that_the_disk_has_changed_is_never_sent_and_never_made_again(tmp_path: Path) -> None:
    """A masked vector with one bit flipped would spoil a sum."""
    box = opened(tmp_path)
    box.keep(answer("q", content=b"x" * 100))
    (path,) = tmp_path.glob("*.answer")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)

    waiting = list(box.waiting())

    assert waiting == []
    assert opened(tmp_path).answered(name("q"))


def test_old_records_are_taken_off(tmp_path: Path) -> None:
    """A question is forgotten after `MEMORY_S`, and not a second earlier."""
    for question, later_s in (("old", 0.0), ("young", 10.0)):
        box = opened(tmp_path, later_s=later_s)
        box.keep(answer(question))
        box.sent(name(question))
        next(tmp_path.glob("*.sent")).unlink()

    box = opened(tmp_path, later_s=MEMORY_S + 5.0)

    assert not box.answered(name("old"))
    assert box.answered(name("young"))
    assert len((tmp_path / "answered.jsonl").read_text().splitlines()) == 1


def test_a_damaged_record_stops_the_site(tmp_path: Path) -> None:
    """It could otherwise answer a question twice."""
    box = opened(tmp_path)
    box.keep(answer("q"))
    box.sent(name("q"))
    record = tmp_path / "answered.jsonl"
    record.write_bytes(b"garbage\n" + record.read_bytes())

    with pytest.raises(DataError):
        opened(tmp_path)


def test_only_the_site_can_read_an_answer(tmp_path: Path) -> None:
    """Mode 0600 in a folder of mode 0700."""
    opened(tmp_path / "out").keep(answer("q"))

    (path,) = (tmp_path / "out").iterdir()
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_what_was_sent_is_known_in_bytes_and_what_was_given_up_is_not_counted(tmp_path: Path) -> None:
    """As long as the question itself is known; looking disturbs nothing."""
    box = opened(tmp_path)
    for question, content in (("a", b"x" * 10), ("b", b"x" * 1010), ("c", b"given up")):
        box.keep(answer(question, content=content))
    box.sent(name("a"))
    opened(tmp_path, later_s=60).sent(name("b"))
    box.drop(name("c"))

    first, second = sent_lately(tmp_path)

    assert (first.at_s, second.at_s) == (int(NOW_S), int(NOW_S) + 60)
    assert second.bytes_out - first.bytes_out == 1000
    assert isinstance(first, Departure)
    opened(tmp_path, later_s=MEMORY_S + 30)
    assert sent_lately(tmp_path) == (second,)
    assert sent_lately(tmp_path / "none") == ()
