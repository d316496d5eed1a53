"""One file with what may be copied of a directory, and the directory made anew from it.

A tar archive: `partsong-backup.json` first, which lists every other member with its size and SHA-256.

Covers: what must never come from a backup is in none and is taken from none; a file that was changed, added, left out,
renamed or linked elsewhere is refused, and then nothing is restored; what is restored is its owner's alone.
Does not cover: secrecy. Signing keys lie in it under their passphrase, transport keys in the clear: whoever has the
file can connect as this party, and no more. An older backup than it seems: only its time says so.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import tarfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from partsong.common.build import build, canonical_json
from partsong.common.errors import ConfigError, DataError, InputError, Refused, TryAgain
from partsong.common.files import make_folder, replacing, sha256_file, sync_folder

FORMAT = "partsong-backup"
VERSION = 1
LIST = "partsong-backup.json"
Side = Literal["site", "coordinator"]
_NAMED: Mapping[Side, str] = {"site": "site", "coordinator": "consortium"}
"""What the name of each side's backup is of."""
_MOST_LIST = 64 << 20
_BLOCK = 1 << 20
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@+-]{0,254}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One file."""

    path: str
    """Relative, with `/`."""
    size: int
    sha256: str

    def __post_init__(self) -> None:
        if not self.path or not all(_PART.fullmatch(part) for part in self.path.split("/")):
            raise ValueError("a relative path of plain names")


@dataclass(frozen=True, kw_only=True, slots=True)
class Contents:
    """What a backup says of itself."""

    side: Side
    name: str
    """Of the site, or of the consortium."""
    made_ms: int
    """When, since 1970."""
    files: tuple[Entry, ...]
    format: str = FORMAT
    version: int = VERSION

    def __post_init__(self) -> None:
        if (self.format, self.version) != (FORMAT, VERSION):
            raise ValueError(f"{FORMAT} version {VERSION}")
        if len({entry.path for entry in self.files}) < len(self.files):
            raise ValueError("each path once")


def told(contents: Contents, where: Path, words: str, *, as_json: bool) -> str:
    """Say what was copied or restored, for people or as one JSON object.

    Args:
        contents: of the backup.
        where: it was written to.
        words: what to do next, for people.
        as_json: for programs; without `words`.
    """
    if not as_json:
        return f"{contents.name}: {len(contents.files)} files, {where}\n{words}"
    tree = {_NAMED[contents.side]: contents.name, "made_ms": contents.made_ms}
    return json.dumps(tree | {"files": len(contents.files), "path": str(where)}, indent=2, ensure_ascii=False)


def back_up(home: Path, out: Path, *, names: Iterable[str], side: Side, name: str, now_ms: int) -> Contents:
    """Copy files into one archive, whole or not at all. Nobody may write into the directory meanwhile.

    Args:
        home: the directory.
        out: a file that does not exist.
        names: of files and folders at its top that are copied where they are there; links and hidden files are not.
        side: whose directory it is.
        name: of the site, or of the consortium.
        now_ms: since 1970.
    Raises:
        InputError: there is something at `out`, or it lies in the directory; nothing was written.
        TryAgain: the disk is full; there is no archive.
    """
    if out.exists() or out.absolute().is_relative_to(home.absolute()):
        raise InputError(str(out), found="a file, or a place in the directory itself", expected="a new file elsewhere")
    found = [file for name_ in names for file in _files(home / name_)]
    entries = tuple(
        Entry(path=file.relative_to(home).as_posix(), size=file.stat().st_size, sha256=sha256_file(file))
        for file in found
    )
    contents = Contents(side=side, name=name, made_ms=now_ms, files=entries)
    with replacing(out) as part:
        part.touch(mode=0o600)
        with tarfile.open(part, "w", format=tarfile.PAX_FORMAT) as archive:
            listing = canonical_json(contents)
            archive.addfile(_member(LIST, len(listing)), io.BytesIO(listing))
            for entry, file in zip(entries, found, strict=True):
                with file.open("rb") as source:
                    archive.addfile(_member(entry.path, entry.size), source)
    return contents


def restore(archive: Path, home: Path, *, side: Side, allows: Callable[[str], bool]) -> Contents:
    """Make a directory from an archive, whole or not at all.

    Args:
        archive: as `back_up` wrote it.
        home: a path that does not exist, or an empty directory.
        side: whose directory it has to be.
        allows: whether a path may come from a backup.
    Raises:
        Refused: `never_restored`: it holds what must not come from a backup; nothing was restored.
        DataError: it is no backup of this side, or is damaged; nothing was restored.
        InputError: there is something in `home`; it was not touched.
        TryAgain: the disk is full; nothing was restored.
    """
    if home.exists() and (not home.is_dir() or any(home.iterdir())):
        raise InputError(str(home), found="something there already", expected="a directory that is empty or new")
    part = home.absolute().with_name(f".{home.absolute().name}.restoring")
    shutil.rmtree(part, ignore_errors=True)
    try:
        make_folder(part)
        contents = _unpack(archive, part, side=side, allows=allows)
        if home.is_dir():
            home.rmdir()
        part.rename(home)
        sync_folder(home.absolute().parent)
    except OSError as err:
        raise TryAgain(f"{home}: could not be written ({type(err).__name__}); nothing was restored") from err
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return contents


def _unpack(archive: Path, part: Path, *, side: Side, allows: Callable[[str], bool]) -> Contents:
    part.chmod(0o700)
    try:
        with tarfile.open(archive, "r:") as members:
            contents = _contents(members, archive, side=side)
            if never := [entry.path for entry in contents.files if not allows(entry.path)]:
                raise Refused(
                    "never_restored",
                    reason=f"{never[0][:80]!r} must never come from a backup: it remembers what was used up or spent",
                    remedy="restore a file that `backup` wrote",
                )
            for entry in contents.files:
                _unpack_one(members, entry, part, archive)
            if members.next() is not None:
                raise _damaged(archive, "more than it lists")
    except (tarfile.TarError, EOFError) as err:
        raise _damaged(archive, "no archive") from err
    return contents


def _contents(members: tarfile.TarFile, archive: Path, *, side: Side) -> Contents:
    first = members.next()
    if first is None or first.name != LIST or not first.isreg() or first.size > _MOST_LIST:
        raise _damaged(archive, "no list of its files")
    source = members.extractfile(first)
    try:
        contents = build(Contents, json.loads(b"" if source is None else source.read()), where=LIST)
    except (ValueError, RecursionError, ConfigError) as err:
        raise _damaged(archive, "a list of another format") from err
    if contents.side != side:
        raise _damaged(archive, f"one of a {contents.side}")
    return contents


def _unpack_one(members: tarfile.TarFile, entry: Entry, part: Path, archive: Path) -> None:
    member = members.next()
    source = None if member is None or not member.isreg() else members.extractfile(member)
    if member is None or source is None or (member.name, member.size) != (entry.path, entry.size):
        raise _damaged(archive, "files that are not those of its list")
    target = part / entry.path
    for folder in reversed(target.relative_to(part).parents[:-1]):
        (part / folder).mkdir(mode=0o700, exist_ok=True)
    if _copy(source, target) != entry.sha256:
        raise _damaged(archive, f"{entry.path} changed")


def _copy(source: IO[bytes], target: Path) -> str:
    """Write a file for its owner alone, durably, and give its digest."""
    digest = hashlib.sha256()
    with os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        while block := source.read(_BLOCK):
            digest.update(block)
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


def _files(path: Path) -> list[Path]:
    """List the plain files below a path, or the path itself."""
    if path.is_symlink():
        return []
    found = sorted(path.rglob("*")) if path.is_dir() else [path]
    inner = [file for file in found if file.is_file() and not file.is_symlink()]
    return [file for file in inner if not any(p.startswith(".") for p in file.relative_to(path.parent).parts)]


def _member(name: str, size: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o600
    return member


def _damaged(archive: Path, found: str) -> DataError:
    return DataError(
        str(archive),
        found=found,
        expected="a backup as it was written",
        remedy="take another copy; nothing was restored",
    )
