"""Files that are whole or absent: nothing a killed process leaves behind can be mistaken for a result."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from partsong.common.errors import DataError, TryAgain

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_READ_BLOCK = 1 << 20


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; on success it takes the place of `path` in one step.

    Guarantees:
        - readers see the old file or the whole new one, also after a power cut (file and folder are fsynced);
        - on any error the old file stands and the temporary one is gone.
    Raises:
        TryAgain: the disk is full; `path` is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    try:
        yield part
        with part.open("rb") as written:
            os.fsync(written.fileno())
        part.replace(path)
        _sync_folder(path.parent)
    except OSError as err:
        part.unlink(missing_ok=True)
        if err.errno in _FULL:
            raise TryAgain(
                f"{path.name}: no space left to write it; the file is as it was; free space, then resume"
            ) from err
        raise
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path`, whole or not at all."""
    with replacing(path) as part:
        part.write_bytes(data)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all."""
    write_bytes(path, (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode())


def append_line(path: Path, value: Any) -> None:
    """Append one JSON line and wait until it is on the disk."""
    line = (json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n").encode()
    try:
        with path.open("ab") as log:
            log.write(line)
            log.flush()
            os.fsync(log.fileno())
    except OSError as err:
        if err.errno in _FULL:
            raise TryAgain(f"{path.name}: no space left to append to it; free space, then resume") from err
        raise


def read_lines(path: Path) -> list[Any]:
    """Read JSON lines; a last line cut off by a crash is left out."""
    if not path.exists():
        return []
    whole = path.read_bytes().split(b"\n")[:-1]
    try:
        return [json.loads(line) for line in whole]
    except ValueError as err:
        raise DataError(path.name, found="a line that is not JSON", expected="one JSON object a line") from err


def sha256_file(path: Path) -> str:
    """Hash a file without reading it into memory at once."""
    digest = hashlib.sha256()
    with path.open("rb") as source:
        while block := source.read(_READ_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
