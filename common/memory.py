"""How this process gives freed memory back to the system.

glibc keeps large blocks that were freed, in the arena of the thread that freed them: a coordinator that handles a
vector in one thread after the other would hold each of them several times over.
"""

from __future__ import annotations

import ctypes

_MMAP_THRESHOLD, _ARENA_MAX = -3, -8
"""Of mallopt(3)."""
_LARGE_BYTES, _ARENAS = 1 << 18, 2


def return_freed_memory() -> bool:
    """Let blocks of 256 KiB and more go back to the system as soon as they are free.

    Returns:
        whether the C library of this machine can be told so; on others it stays as it is.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _LARGE_BYTES)) and bool(mallopt(_ARENA_MAX, _ARENAS))
