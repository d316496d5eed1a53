"""Files and folders for their owner alone.

Covers: the owner's bits are set before a secret byte is written, and a file is whole or absent.
Does not cover: the superuser, backups, and a medium that keeps what was overwritten.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from partsong.common.errors import InputError
from partsong.common.files import make_folder, replacing

OTHERS = stat.S_IRWXG | stat.S_IRWXO
"""Any right of the group or of the world."""


def write_private(path: Path, data: bytes) -> None:
    """Write `data` to `path` with mode 0600, whole or not at all.

    Raises:
        TryAgain: the disk is full; `path` is as it was.
    """
    with replacing(path) as part:
        part.unlink(missing_ok=True)  # what a killed process left may have wider rights
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(data)


def make_private_folder(folder: Path) -> None:
    """Make a folder with mode 0700, or take the others' rights from one that exists."""
    make_folder(folder.parent)
    folder.mkdir(mode=0o700, exist_ok=True)
    if stat.S_IMODE(folder.stat().st_mode) & OTHERS:
        folder.chmod(0o700)


def require_private(path: Path) -> None:
    """Refuse a file that others may read or write.

    Raises:
        InputError: names the file and its mode; it was not read.
    """
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & OTHERS:
        raise InputError(
            str(path), found=f"mode {mode:04o}", expected="a file for its owner alone", remedy=f"chmod 600 {path}"
        )
