"""What happens to memory that this process has freed: it goes back to the system, or stays for the next vector.

glibc keeps large blocks that were freed, in the arena of the thread that freed them: a coordinator that handles a
vector in one thread after the other would hold each of them several times over. A simulation handles vectors of one
size after each other in one thread, and every block that went back has to be cleared by the kernel when it comes again.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
"""Of mallopt(3)."""
_LARGE_BYTES, _ARENAS = 1 << 18, 2
_KEPT_BLOCK_BYTES, _KEPT_BYTES = 32 << 20, 256 << 20
"""The largest blocks that glibc can be told to keep, and how much of them all."""


def return_freed_memory() -> bool:
    """Let blocks of 256 KiB and more go back to the system as soon as they are free.

    Returns:
        whether the C library of this machine can be told so; on others it stays as it is.
    """
    return _told({_MMAP_THRESHOLD: _LARGE_BYTES, _ARENA_MAX: _ARENAS})


def keep_freed_memory() -> bool:
    """Keep up to 256 MiB of freed blocks for later ones, until the process ends.

    Returns:
        whether the C library of this machine can be told so; on others it stays as it is.
    """
    return _told({_MMAP_THRESHOLD: _KEPT_BLOCK_BYTES, _TRIM_THRESHOLD: _KEPT_BYTES})


def _told(values: Mapping[int, int]) -> bool:
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    taken = [bool(mallopt(option, value)) for option, value in values.items()]
    return all(taken)
