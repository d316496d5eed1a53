"""The files of a study: what is absent or changed is refused, by name."""

import hashlib
from pathlib import Path

import pytest

from partsong.common.errors import DataError
from partsong.simulations.studies.sources import Source, locate

TEXT = b"text,category\nwhere is my card?,card\n"


def source(*, path: str = "bank/train.csv", content: bytes = TEXT) -> Source:
    return Source(path=path, sha256=hashlib.sha256(content).hexdigest(), origin="a publisher at 1234567", licence="CC0")


def test_a_file_with_the_right_bytes_is_found(tmp_path: Path) -> None:
    """In the order of the sources."""
    for name in ("train.csv", "test.csv"):
        (tmp_path / "bank").mkdir(exist_ok=True)
        (tmp_path / "bank" / name).write_bytes(TEXT)

    found = locate(tmp_path, (source(path="bank/test.csv"), source()))

    assert found == (tmp_path / "bank" / "test.csv", tmp_path / "bank" / "train.csv")


def test_an_absent_file_is_named_with_its_place_and_its_publisher(tmp_path: Path) -> None:
    """And with the bytes that are expected; exit code 2."""
    with pytest.raises(DataError) as caught:
        locate(tmp_path, (source(),))

    text = str(caught.value)
    assert caught.value.exit_code == 2
    assert str(tmp_path / "bank" / "train.csv") in text
    assert "a publisher at 1234567" in text
    assert source().sha256 in text


def test_one_other_byte_is_refused(tmp_path: Path) -> None:
    """The text names both digests and nothing of what the file holds."""
    (tmp_path / "bank").mkdir()
    (tmp_path / "bank" / "train.csv").write_bytes(TEXT.replace(b"my", b"mY"))

    with pytest.raises(DataError, match="SHA-256") as caught:
        locate(tmp_path, (source(),))

    assert "card" not in str(caught.value)
