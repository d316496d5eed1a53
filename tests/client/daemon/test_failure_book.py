"""A failure at a site becomes a capsule, and a failure to keep it becomes none."""

import errno
from pathlib import Path

import pytest

from partsong.client.daemon.failure_book import MOST_SHOWN, FailureBook
from partsong.common import files
from partsong.common.capsule_shelf import CapsuleShelf
from partsong.common.control.feed import Feed, ProgressEvent
from partsong.common.errors import Refused

SECRET = "fracture of the left wrist"


def _book(folder: Path, feed: Feed) -> FailureBook:
    return FailureBook(folder / "capsules", site="north", feed=feed, clock=lambda: 1.5)


def _entered(folder: Path, error: BaseException) -> ProgressEvent:
    feed = Feed()
    with feed.watch() as watcher:
        _book(folder, feed).enter(error, phase="answer", run="run 1", round_id=2)
        told = watcher.next(timeout_s=0)
    assert told is not None
    return told


def test_a_failure_is_kept_and_told_by_its_capsule(tmp_path: Path) -> None:
    """The watcher gets the capsule's id, with which the operator finds all of it; no text of the error is anywhere."""
    told = _entered(tmp_path, Refused("budget", reason=SECRET, remedy=SECRET))

    capsule = CapsuleShelf(tmp_path / "capsules").read(str(told.facts["capsule"]))
    assert (told.event, told.facts["error"], told.facts["rule"]) == ("failed", "Refused", "budget")
    assert (capsule.site, capsule.run, capsule.round, capsule.phase) == ("north", "run_1", 2, "answer")
    assert SECRET not in repr(told) + "".join(p.read_text() for p in (tmp_path / "capsules").iterdir())


def test_a_failure_on_a_full_disk_is_still_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is raised, so the connection goes on."""

    def full(_handle: int) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(files.os, "fsync", full)

    told = _entered(tmp_path, OSError(errno.ENOSPC, "full"))

    assert told.facts["error"] == "OSError"
    assert CapsuleShelf(tmp_path / "capsules").ids() == ()


def test_a_status_names_the_newest_few(tmp_path: Path) -> None:
    """Not more than a person reads."""
    book = _book(tmp_path, Feed())

    for _ in range(MOST_SHOWN + 2):
        book.enter(ValueError(SECRET), phase="answer")

    assert len(book.newest()) == MOST_SHOWN
    assert set(book.newest()) < set(CapsuleShelf(tmp_path / "capsules").ids())
