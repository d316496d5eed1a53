"""What a simulation may leave out because one process plays many sites on disks that nobody relies on.

Covers: every answer, ledger entry and adapter is the same as without; `verify_once` is apart, since it is marked.
Does not cover: a power cut. A run that was killed goes on from its newest round; after a power cut it may have to
begin anew.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from partsong.common.files import disk_not_awaited
from partsong.common.memory import keep_freed_memory
from partsong.common.vectors import hashed_once


@contextlib.contextmanager
def shortcuts() -> Iterator[None]:
    """Write without waiting for the disk, and hash a vector that goes to many sites once.

    Memory that was freed stays with this process for the next vector, also afterwards.
    """
    keep_freed_memory()
    with disk_not_awaited(), hashed_once():
        yield
