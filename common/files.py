"""Files that are whole or absent: nothing a killed process leaves behind can be mistaken for a result."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from partsong.common.errors import DataError, TryAgain

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_READ_BLOCK = 1 << 20
_unawaited: list[None] = []
"""As many as there are blocks of `disk_not_awaited`."""


@contextmanager
def disk_not_awaited() -> Iterator[None]:
    """Write without waiting for the disk, in all threads of this process: for simulations alone.

    Guarantees: files are written as always, and outlive a killed process; a power cut may take what was written last.
    """
    _unawaited.append(None)
    try:
        yield
    finally:
        _unawaited.pop()


def disk_is_awaited() -> bool:
    """Whether what is written has to survive a power cut, which is so in every daemon."""
    return not _unawaited


def sync(handle: int) -> None:
    """Wait until an open file or folder is on the disk."""
    if disk_is_awaited():
        os.fsync(handle)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; on success it takes the place of `path` in one step.

    Guarantees:
        - readers see the old file or the whole new one, also after a power cut (file and folder are fsynced);
        - on any error the old file stands and the temporary one is gone.
    Raises:
        TryAgain: the disk is full; `path` is as it was.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        make_folder(path.parent)
        yield part
        with part.open("rb") as written:
            sync(written.fileno())
        part.replace(path)
        sync_folder(path.parent)
    except OSError as err:
        part.unlink(missing_ok=True)
        if is_full(err):
            raise TryAgain(
                f"{path.name}: no space left to write it; the file is as it was; free space, then resume"
            ) from err
        raise
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def write_bytes(path: Path, data: bytes | memoryview) -> None:
    """Write `data` to `path`, whole or not at all."""
    with replacing(path) as part:
        part.write_bytes(data)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all."""
    write_bytes(path, (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode())


def append_line(path: Path, value: Any) -> None:
    """Append one JSON line and wait until it is on the disk.

    Guarantees:
        - once this returns, the line survives a power cut, also as the first line of a new file;
        - a torn line that a crash has left is taken off first, so that it never swallows this one.
    Raises:
        TryAgain: the disk is full; the file holds the lines it held before.
    """
    line = (json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n").encode()
    is_new = not path.exists()
    try:
        make_folder(path.parent)
        with path.open("a+b", buffering=0) as log:
            end = _end_of_whole_lines(log)
            log.truncate(end)
            _write_all_or_nothing(log, line, end=end)
            sync(log.fileno())
        if is_new:
            sync_folder(path.parent)
    except OSError as err:
        if is_full(err):
            raise TryAgain(f"{path.name}: no space left to append to it; free space, then resume") from err
        raise


def read_lines(path: Path) -> list[Any]:
    """Read JSON lines; a last line cut off by a crash is left out.

    Raises:
        DataError: a whole line is not JSON.
    """
    if not path.exists():
        return []
    whole = path.read_bytes().split(b"\n")[:-1]
    try:
        return [json.loads(line) for line in whole]
    except ValueError as err:
        raise DataError(path.name, found="a line that is not JSON", expected="one JSON object a line") from err


def is_full(err: BaseException) -> bool:
    """Whether an error says that the disk is full, also where a library has only kept the text of it."""
    if isinstance(err, OSError) and err.errno in _FULL:
        return True
    return any(os.strerror(code).lower() in str(err).lower() for code in _FULL)


def sha256_file(path: Path, *, tick: Callable[[], None] = lambda: None) -> str:
    """Hash a file without reading it into memory at once.

    Args:
        path: of the file.
        tick: called after each MiB, and after the rest.
    """
    digest = hashlib.sha256()
    with path.open("rb") as source:
        while block := source.read(_READ_BLOCK):
            digest.update(block)
            tick()
    return digest.hexdigest()


def make_folder(folder: Path) -> None:
    """Make a folder and those above it; each new one survives a power cut."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk."""
    if not disk_is_awaited():
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _end_of_whole_lines(log: IO[bytes]) -> int:
    """Find where the last whole line ends, looking back from the end."""
    position = log.seek(0, os.SEEK_END)
    while position:
        start = max(0, position - _READ_BLOCK)
        log.seek(start)
        newline = log.read(position - start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        position = start
    return 0


def _write_all_or_nothing(log: IO[bytes], line: bytes, *, end: int) -> None:
    """Write a line at `end`. A full disk may take a part of it before it says so; that part is taken back."""
    try:
        left = memoryview(line)
        while left:
            left = left[log.write(left) :]
    except OSError:
        log.truncate(end)
        raise
