"""Files that only the site's user can read, whole or absent."""

from __future__ import annotations

import os
from pathlib import Path

from partsong.common.files import make_folder, replacing


def write_private(path: Path, data: bytes) -> None:
    """Write `data` to `path` with mode 0600, whole or not at all; it is on the medium when this returns.

    Raises:
        TryAgain: the disk is full; `path` is as it was.
    """
    with (
        replacing(path) as part,
        os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file,
    ):
        file.write(data)


def own_folder(folder: Path) -> None:
    """Make a folder of mode 0700 if there is none, and clear away what a killed process has half written in it."""
    make_folder(folder)
    folder.chmod(0o700)
    for part in folder.glob(".*.part"):
        part.unlink()
