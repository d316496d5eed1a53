"""What pages load: served from here, and exactly what was taken over from others."""

import hashlib
import re
from pathlib import Path

import pytest

from partsong.common.dashboard.frame import FILES, STATIC, moment, size

ROW = re.compile(r"^\| `(\S+)` \| `(\S+)` (\S+), .*\| `([0-9a-f]{64})` \|$", re.MULTILINE)
OWN = {"dashboard.css", "dashboard.js", "icon.svg"}
ROOT = Path(__file__).resolve().parents[2]


def test_what_others_wrote_is_unchanged_and_has_its_licence_beside_it() -> None:
    """Name, version and digest stand in the folder's README; a changed byte is found."""
    known = {row[0]: row[3] for row in ROW.findall((STATIC / "README.md").read_text())}

    found = {name: hashlib.sha256((STATIC / name).read_bytes()).hexdigest() for name in FILES if name not in OWN}

    assert found == known
    assert set(known) == {"htmx.min.js", "sse.min.js"}
    for name in known:
        assert "Zero-Clause BSD" in (STATIC / f"{name.split('.')[0]}.LICENSE.txt").read_text().replace("BSD Zero Clause", "Zero-Clause BSD")  # fmt: skip
    assert hashlib.sha256((STATIC / "htmx.min.js").read_bytes() + b" ").hexdigest() not in known.values()


def test_the_checker_of_accessibility_is_unchanged_too() -> None:
    """It is test data; its digest stands beside it."""
    folder = ROOT / "fixtures" / "axe-core"

    digest = hashlib.sha256((folder / "axe.min.js").read_bytes()).hexdigest()

    assert digest in (folder / "README.md").read_text()


def test_our_own_files_reach_for_nothing_outside() -> None:
    """No address of another machine, no import, no font."""
    for name in OWN - {"icon.svg"}:
        text = (STATIC / name).read_text()

        assert not re.search(r"https?:|//[a-z]+\.|@import|url\(|eval\(|innerHTML", text)


@pytest.mark.parametrize(
    ("time_ms", "words"), [(0, "1970-01-01 00:00:00Z"), (1_700_000_000_999, "2023-11-14 22:13:20Z")]
)
def test_a_moment_is_told_in_utc(time_ms: int, words: str) -> None:
    """To the second."""

    assert moment(time_ms) == words


@pytest.mark.parametrize(
    ("count", "words"), [(0, "0 bytes"), (999, "999 bytes"), (1000, "1 kB"), (14_200_000, "14.2 MB"), (10**9, "1 GB")]
)
def test_bytes_have_a_unit(count: int, words: str) -> None:
    """As people say them."""

    assert size(count) == words
