"""Files that are whole or absent."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partsong.common.errors import DataError, TryAgain
from partsong.common.files import append_line, read_lines, replacing, sha256_file, write_bytes, write_json

LIMIT = 1 << 16


def in_process(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run code in its own interpreter, with FOLDER set and a way to make the disk look full."""
    start = f"""
    import os, resource, signal, sys
    from pathlib import Path
    FOLDER = Path({str(folder)!r})
    def full_disk():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, ({LIMIT}, {LIMIT}))
    def exiting(work):
        from partsong.common.errors import PartsongError
        try:
            work()
        except PartsongError as err:
            print(err)
            sys.exit(err.exit_code)
    """
    return subprocess.run(
        [sys.executable, "-P", "-c", textwrap.dedent(start) + textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_written_file_replaces_the_old_one_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    """On success there is one file with the new content."""
    path = tmp_path / "new" / "folder" / "state.json"
    write_json(path, {"a": 1})

    write_json(path, {"a": 2, "ü": None})

    assert path.read_text() == '{\n  "a": 2,\n  "ü": null\n}\n'
    assert [f.name for f in path.parent.iterdir()] == ["state.json"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, OSError])
def test_an_error_while_writing_leaves_the_old_file(tmp_path: Path, error: type[BaseException]) -> None:
    """Whatever goes wrong, the old content stands and the temporary file is gone."""
    path = tmp_path / "state"
    write_bytes(path, b"old")

    def half_a_write() -> None:
        with replacing(path) as part:
            part.write_bytes(b"half")
            raise error

    with pytest.raises(error):
        half_a_write()

    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_writer_killed_in_the_middle_leaves_the_old_file_readable(tmp_path: Path) -> None:
    """kill -9 between two halves of a write: the reader sees the old file, and the next writer succeeds."""
    path = tmp_path / "state"
    write_bytes(path, b"old")

    done = in_process(
        """
        from partsong.common.files import replacing
        with replacing(FOLDER / "state") as part:
            part.write_bytes(b"new, but only ha")
            os.kill(os.getpid(), signal.SIGKILL)
        """,
        tmp_path,
    )

    assert done.returncode == -signal.SIGKILL
    assert path.read_bytes() == b"old"
    write_bytes(path, b"next")
    assert path.read_bytes() == b"next"
    assert list(tmp_path.iterdir()) == [path]


def test_a_plain_write_killed_in_the_middle_would_be_noticed(tmp_path: Path) -> None:
    """Control: without `replacing` the same kill leaves half a file."""
    path = tmp_path / "state"
    path.write_bytes(b"old")

    in_process(
        """
        with open(FOLDER / "state", "wb", buffering=0) as file:
            file.write(b"new, but only ha")
            os.kill(os.getpid(), signal.SIGKILL)
        """,
        tmp_path,
    )

    assert path.read_bytes() == b"new, but only ha"


def test_a_full_disk_while_replacing_is_a_try_again_with_the_old_file_whole(tmp_path: Path) -> None:
    """The disk takes a part and then no more: exit code 75, old content, no leftovers."""
    path = tmp_path / "state"
    write_bytes(path, b"old")

    done = in_process(
        f"""
        from partsong.common.files import write_bytes
        full_disk()
        exiting(lambda: write_bytes(FOLDER / "state", b"x" * {LIMIT + 1}))
        """,
        tmp_path,
    )

    assert done.returncode == TryAgain.exit_code == 75, done.stderr
    assert done.stdout == "state: no space left to write it; the file is as it was; free space, then resume\n"
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_while_appending_takes_the_half_written_line_back(tmp_path: Path) -> None:
    """A journal on a full disk holds whole lines only, and goes on once there is room."""
    journal = tmp_path / "journal.jsonl"
    append_line(journal, {"text": "x" * (LIMIT - 100)})
    before = journal.read_bytes()

    done = in_process(
        """
        from partsong.common.files import append_line
        full_disk()
        exiting(lambda: append_line(FOLDER / "journal.jsonl", {"text": "y" * 200}))
        """,
        tmp_path,
    )

    assert done.returncode == 75, done.stderr
    assert journal.read_bytes() == before
    append_line(journal, {"text": "z"})
    assert read_lines(journal)[1:] == [{"text": "z"}]


def test_the_limit_used_above_takes_a_part_of_the_line(tmp_path: Path) -> None:
    """Control: a plain append under the same limit leaves a torn line."""
    done = in_process(
        f"""
        full_disk()
        file = os.open(FOLDER / "journal.jsonl", os.O_WRONLY | os.O_CREAT)
        os.lseek(file, {LIMIT - 10}, os.SEEK_SET)
        print(os.write(file, b"y" * 200))
        """,
        tmp_path,
    )

    assert done.stdout == "10\n", done.stderr


@pytest.mark.parametrize("torn", [b'{"round": 2', b'{"round": 2}', b"\xff\xfe", b"x" * 3_000_000])
def test_a_torn_last_line_is_left_out_and_does_not_swallow_the_next(tmp_path: Path, torn: bytes) -> None:
    """A crash in the middle of an append costs that line only."""
    journal = tmp_path / "journal.jsonl"
    append_line(journal, {"round": 1})
    with journal.open("ab") as file:
        file.write(torn)
    assert read_lines(journal) == [{"round": 1}]

    append_line(journal, {"round": 3})

    assert read_lines(journal) == [{"round": 1}, {"round": 3}]


def test_a_file_that_is_nothing_but_a_torn_line_starts_anew(tmp_path: Path) -> None:
    """A crash in the very first append leaves nothing."""
    journal = tmp_path / "journal.jsonl"
    journal.write_bytes(b'{"rou')

    append_line(journal, {"round": 1})

    assert read_lines(journal) == [{"round": 1}]


def test_appending_makes_the_folder(tmp_path: Path) -> None:
    """A journal may be the first thing in its folder."""
    journal = tmp_path / "site" / "journal.jsonl"

    append_line(journal, {"round": 1})

    assert read_lines(journal) == [{"round": 1}]
    assert read_lines(tmp_path / "absent.jsonl") == []


def test_a_damaged_line_in_the_middle_is_refused(tmp_path: Path) -> None:
    """Only the end of a file can be torn; anything else is damage."""
    journal = tmp_path / "journal.jsonl"
    journal.write_bytes(b'{"round": 1}\n{"rou\n{"round": 3}\n')

    with pytest.raises(DataError, match=r"journal\.jsonl: found a line that is not JSON"):
        read_lines(journal)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=40, deadline=None)
@given(values=st.lists(JSON, max_size=4), cut=st.integers(0, 40))
def test_what_was_appended_whole_is_read_back_wherever_the_file_is_cut(
    tmp_path_factory: pytest.TempPathFactory, values: list[object], cut: int
) -> None:
    """Cutting bytes off the end loses lines from the end and changes none."""
    journal = tmp_path_factory.mktemp("cut") / "journal.jsonl"
    for value in values:
        append_line(journal, value)
    if journal.exists():
        os.truncate(journal, max(0, journal.stat().st_size - cut))

    lines = read_lines(journal)

    assert lines == values[: len(lines)]
    assert cut or lines == values


def test_the_hash_of_a_file_is_that_of_its_bytes(tmp_path: Path) -> None:
    """Longer than a block, compared with the published digest of a million times `a` (FIPS 180-2, B.3)."""
    path = tmp_path / "million"
    path.write_bytes(b"a" * 1_000_000)

    assert sha256_file(path) == "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"
