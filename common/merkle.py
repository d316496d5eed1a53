"""One hash for a long vector, of which a part can be shown to belong to it.

Leaves are runs of 64 KiB of the vector's bytes; the tree is that of RFC 6962 section 2.1 with SHA-256.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

LEAF_BYTES = 1 << 16


def root_of(data: bytes | memoryview) -> bytes:
    """Hash `data` to 32 bytes."""
    view = memoryview(data)
    leaves = [_leaf(view[start : start + LEAF_BYTES]) for start in range(0, len(view), LEAF_BYTES)]
    return _tree(leaves) if leaves else hashlib.sha256().digest()


def _leaf(part: memoryview) -> bytes:
    hasher = hashlib.sha256(b"\x00")
    hasher.update(part)
    return hasher.digest()


def _tree(hashes: Sequence[bytes]) -> bytes:
    if len(hashes) == 1:
        return hashes[0]
    # The left half is the largest power of two below the number of leaves.
    left = 1 << (len(hashes) - 1).bit_length() - 1
    return hashlib.sha256(b"\x01" + _tree(hashes[:left]) + _tree(hashes[left:])).digest()
