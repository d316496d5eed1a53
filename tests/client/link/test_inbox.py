"""Questions that arrived."""

import hashlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partsong.client.link.inbox import Delivery, Inbox, Notice, Part
from partsong.common.codec import pack, unpack
from partsong.common.errors import WireError


def delivery(*contents: bytes, arrived_ms: int = 1) -> Delivery:
    names = [hashlib.sha256(content).digest() for content in contents]
    parts = tuple(Part(name=name, children=()) for name in names)
    notice = Notice(message=names[-1], run=3, node=1 << 63, arrived_ms=arrived_ms, expires_ms=99, parts=parts)
    return Delivery(notice=notice, contents=contents)


def test_a_message_is_announced_kept_and_erased(tmp_path: Path) -> None:
    """And a new process finds it at every stage."""
    whole = delivery(b"part", b"root")

    Inbox(tmp_path / "in").announce(whole.notice)
    announced = list(Inbox(tmp_path / "in").announced())
    Inbox(tmp_path / "in").keep(whole)
    kept = list(Inbox(tmp_path / "in").deliveries())
    left = list(Inbox(tmp_path / "in").announced())
    Inbox(tmp_path / "in").erase(whole.notice)

    assert announced == [whole.notice]
    assert kept == [whole]
    assert left == []
    assert list((tmp_path / "in").iterdir()) == []


def test_the_oldest_comes_first(tmp_path: Path) -> None:
    """By arrival, in numbers and not in letters."""
    inbox = Inbox(tmp_path)

    for arrived_ms in (10, 9, 100):
        inbox.keep(delivery(b"%d" % arrived_ms, arrived_ms=arrived_ms))

    assert [d.notice.arrived_ms for d in inbox.deliveries()] == [9, 10, 100]


@settings(deadline=None, max_examples=60)
@given(cut=st.integers(0, 10_000), flip=st.booleans())
def test_a_torn_or_changed_message_is_ignored_and_removed(
    tmp_path_factory: pytest.TempPathFactory, cut: int, *, flip: bool
) -> None:
    """Wherever it is cut, whichever byte of a content is changed; the whole one beside it is found."""
    folder = tmp_path_factory.mktemp("in")
    inbox = Inbox(folder)
    inbox.keep(delivery(b"x" * 300, b"root", arrived_ms=1))
    inbox.keep(delivery(b"good", arrived_ms=2))
    path = min(folder.glob("*.whole"))
    data = bytearray(path.read_bytes())
    if flip:
        data[-1 - cut % 300] ^= 1
    else:
        del data[cut % len(data) :]
    path.write_bytes(data)

    found = [d.contents for d in inbox.deliveries()]

    assert found == [(b"good",)]
    assert not path.exists()


def test_what_a_killed_process_has_half_written_is_cleared_away(tmp_path: Path) -> None:
    """It was never confirmed, so it is fetched again."""
    (tmp_path / ".0001-ab.whole.part").write_bytes(b"half")

    Inbox(tmp_path)

    assert list(tmp_path.iterdir()) == []


def test_only_the_site_can_read_it(tmp_path: Path) -> None:
    """Mode 0600 in a folder of mode 0700."""
    Inbox(tmp_path / "in").keep(delivery(b"a"))

    (path,) = (tmp_path / "in").iterdir()
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("other", ["content", "root", "empty"])
def test_a_part_that_is_not_what_its_name_says_is_refused(other: str) -> None:
    """Another content, a root that is not the message, and nothing at all."""
    good = delivery(b"part", b"root")
    good.check()
    bad = {
        "content": Delivery(notice=good.notice, contents=(b"part", b"r00t")),
        "root": Delivery(notice=delivery(b"root", b"part").notice, contents=(b"part", b"root")),
        "empty": Delivery(
            notice=Notice(message=b"m" * 32, run=1, node=1, arrived_ms=1, expires_ms=2, parts=()), contents=()
        ),
    }[other]

    with pytest.raises(WireError):
        bad.check()


def test_names_of_files_are_this_sites_own() -> None:
    """A name of another length cannot even be written down."""
    notice = Notice(message=b"../../etc/passwd", run=1, node=1, arrived_ms=1, expires_ms=1, parts=())

    with pytest.raises(ValueError, match="32 bytes"):
        pack(notice)


def test_a_notice_round_trips() -> None:
    """The control for the torn ones: the format itself loses nothing."""
    notice = delivery(b"a", b"b").notice

    assert unpack(Notice, pack(notice)) == notice
