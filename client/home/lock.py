"""One process at a time works on a site's directory.

Covers: what a daemon holds in memory and what a command erases or replaces on the disk cannot come apart.
Does not cover: commands that only read, or replace one file whole.
"""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

from partsong.common.errors import TryAgain
from partsong.common.files import make_folder


@contextlib.contextmanager
def held(file: Path) -> Iterator[None]:
    """Hold a site's directory for the time of a block.

    Args:
        file: `SiteHome.lock`.
    Raises:
        TryAgain: another process holds it.
    """
    make_folder(file.parent)
    with file.open("a+b") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as err:
            raise TryAgain(f"{file.parent}: a daemon works on this directory; stop it first") from err
        yield
