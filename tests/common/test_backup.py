"""One file for a directory: what may be copied comes back as it was, everything else is refused whole."""

import dataclasses
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from partsong.common.backup import LIST, Contents, back_up, restore, told
from partsong.common.errors import DataError, InputError, Refused

NAMES = ("a.yaml", "tls", "runs")


def allows(path: str) -> bool:
    return path.split("/", maxsplit=1)[0] in NAMES


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A directory with files to copy, and some that are not to be."""
    home = tmp_path / "home"
    (home / "runs" / "one" / "job").mkdir(parents=True)
    (home / "tls").mkdir()
    (home / "vault").mkdir()
    (home / "a.yaml").write_text("x: 1\n")
    (home / "tls" / "key.pem").write_text("secret")
    (home / "runs" / "one" / "job" / "start.bin").write_bytes(bytes(3_000_000))
    (home / "runs" / "one" / "empty").write_bytes(b"")
    (home / "runs" / ".two.part").write_text("half")
    (home / "runs" / "current").symlink_to("one")
    (home / "vault" / "key").write_text("never")
    return home


def copied(home: Path, out: Path) -> Contents:
    return back_up(home, out, names=NAMES, side="site", name="north", now_ms=7)


def test_what_is_copied_comes_back_and_is_its_owners_alone(home: Path, tmp_path: Path) -> None:
    """Not what was not named, no link, and nothing half written; the file itself is private too."""
    out, new = tmp_path / "b.tar", tmp_path / "new"
    contents = copied(home, out)

    again = restore(out, new, side="site", allows=allows)

    there = {p.relative_to(new).as_posix(): p.read_bytes() for p in new.rglob("*") if p.is_file()}
    assert there.keys() == {"a.yaml", "tls/key.pem", "runs/one/job/start.bin", "runs/one/empty"}
    assert all(data == (home / name).read_bytes() for name, data in there.items())
    assert (again, contents.name, contents.made_ms) == (contents, "north", 7)
    assert {p.stat().st_mode & 0o077 for p in [out, new, *new.rglob("*")]} == {0}


def rewritten(source: Path, target: Path, change: Callable[[str, bytes], list[tuple[str, bytes, bytes]]]) -> Path:
    """Copy an archive, each member changed to these names, contents and types."""
    with tarfile.open(source) as old, tarfile.open(target, "w") as new:
        for member in old:
            data = old.extractfile(member).read()  # type: ignore[union-attr]
            for name, content, kind in change(member.name, data):
                info = tarfile.TarInfo(name)
                info.type, info.size, info.linkname = kind, len(content) if kind == tarfile.REGTYPE else 0, "../../x"
                new.addfile(info, io.BytesIO(content))
    return target


def listed(data: bytes, change: Callable[[dict[str, Any]], object]) -> bytes:
    tree = json.loads(data)
    change(tree)
    return json.dumps(tree, sort_keys=True, separators=(",", ":")).encode()


REG = tarfile.REGTYPE
BAD: dict[str, Callable[[str, bytes], list[tuple[str, bytes, bytes]]]] = {
    "a changed byte": lambda n, d: [(n, d.replace(b"secret", b"Secret") if n != LIST else d, REG)],
    "a file more": lambda n, d: [(n, d, REG), ("tls/more", b"", REG)] if n.endswith("key.pem") else [(n, d, REG)],
    "a file less": lambda n, d: [] if n.endswith("key.pem") else [(n, d, REG)],
    "a link": lambda n, d: [(n, d, tarfile.SYMTYPE if n.endswith("key.pem") else REG)],
    "a hard link": lambda n, d: [(n, d, tarfile.LNKTYPE if n.endswith("key.pem") else REG)],
    "another name": lambda n, d: [(n.replace("key.pem", "kez.pem"), d, REG)],
    "no list": lambda n, d: [] if n == LIST else [(n, d, REG)],
    "a path that leads out": lambda n, d: [
        (n.replace("tls/", "../"), d.replace(b"tls/", b"../") if n == LIST else d, REG)
    ],
    "an absolute path": lambda n, d: [(n.replace("tls/", "/t/"), d.replace(b"tls/", b"/t/") if n == LIST else d, REG)],
    "another format": lambda n, d: [(n, listed(d, lambda t: t.update(version=2)) if n == LIST else d, REG)],
    "a side that it is not of": lambda n, d: [
        (n, listed(d, lambda t: t.update(side="coordinator")) if n == LIST else d, REG)
    ],
    "one path twice": lambda n, d: [
        (n, listed(d, lambda t: t["files"].append(t["files"][0])) if n == LIST else d, REG)
    ],
}


@pytest.mark.parametrize("what", BAD)
def test_a_changed_archive_is_refused_and_nothing_is_there(home: Path, tmp_path: Path, what: str) -> None:
    """Neither the directory nor what was unpacked before the fault was found, nor anything outside."""
    copied(home, tmp_path / "b.tar")
    bad = rewritten(tmp_path / "b.tar", tmp_path / "bad.tar", BAD[what])
    before = sorted(tmp_path.iterdir())

    with pytest.raises(DataError, match="nothing was restored"):
        restore(bad, tmp_path / "new", side="site", allows=allows)

    assert sorted(tmp_path.iterdir()) == before


def test_an_archive_that_was_only_copied_is_taken(home: Path, tmp_path: Path) -> None:
    """The control: rewriting alone does not make it bad."""
    copied(home, tmp_path / "b.tar")
    same = rewritten(tmp_path / "b.tar", tmp_path / "same.tar", lambda name, data: [(name, data, REG)])

    restore(same, tmp_path / "new", side="site", allows=allows)

    assert (tmp_path / "new" / "tls" / "key.pem").read_text() == "secret"


def test_what_must_never_be_restored_is_refused_by_name(home: Path, tmp_path: Path) -> None:
    """Also from an archive that is whole."""
    back_up(home, tmp_path / "b.tar", names=(*NAMES, "vault"), side="site", name="north", now_ms=7)

    with pytest.raises(Refused, match=r"never_restored.*vault/key"):
        restore(tmp_path / "b.tar", tmp_path / "new", side="site", allows=allows)

    assert not (tmp_path / "new").exists()


def test_nothing_is_written_over(home: Path, tmp_path: Path) -> None:
    """Neither an archive nor a directory; nor into the directory that is copied."""
    copied(home, tmp_path / "b.tar")
    for out in (tmp_path / "b.tar", home / "b.tar"):
        with pytest.raises(InputError, match="a new file elsewhere"):
            copied(home, out)
    with pytest.raises(InputError, match="empty or new"):
        restore(tmp_path / "b.tar", home, side="site", allows=allows)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_no_flipped_bit_of_what_it_holds_comes_through(home: Path, tmp_path: Path, at: int, bit: int) -> None:
    """What is restored is what was copied, or nothing is."""
    out, new = tmp_path / "b.tar", tmp_path / "new"
    if not out.exists():
        copied(home, out)
        (home / "runs" / "one" / "job" / "start.bin").stat()
    data = bytearray(out.read_bytes())
    data[at % 10_240] ^= 1 << bit
    (tmp_path / "bad.tar").write_bytes(data)

    try:
        restore(tmp_path / "bad.tar", new, side="site", allows=allows)
    except (DataError, Refused):
        assert not new.exists()
    else:
        for file in (p for p in new.rglob("*") if p.is_file()):
            assert file.read_bytes() == (home / file.relative_to(new)).read_bytes()
        for path in sorted(new.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        new.rmdir()


def test_what_was_done_is_told_to_people_and_to_programs(home: Path, tmp_path: Path) -> None:
    """The same facts; what to do next is for people alone."""
    out = tmp_path / "b.tar"
    contents = copied(home, out)

    words, tree = told(contents, out, "do this next", as_json=False), told(contents, out, "do this next", as_json=True)

    assert words == f"north: 4 files, {out}\ndo this next"
    assert json.loads(tree) == {"site": "north", "made_ms": 7, "files": 4, "path": str(out)}
    consortium = json.loads(told(dataclasses.replace(contents, side="coordinator"), out, "", as_json=True))
    assert consortium["consortium"] == "north"
