"""One hash for a long vector, of which a part can be shown to belong to it.

Leaves are runs of 64 KiB of the vector's bytes; the tree is that of RFC 6962 section 2.1 with SHA-256.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

LEAF_BYTES = 1 << 16


def root_of(data: bytes | memoryview) -> bytes:
    """Hash `data` to 32 bytes."""
    leaves = _leaves(data)
    return _tree(leaves) if leaves else hashlib.sha256().digest()


def _leaves(data: bytes | memoryview) -> list[bytes]:
    view = memoryview(data)
    return [_leaf(view[start : start + LEAF_BYTES]) for start in range(0, len(view), LEAF_BYTES)]


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


def leaves_of(size: int) -> int:
    """Count the leaves of a vector of `size` bytes."""
    return -(-size // LEAF_BYTES)


def prove(data: bytes | memoryview, *, leaf: int) -> tuple[bytes, ...]:
    """Make the path from one leaf to the root: RFC 6962 section 2.1.1."""
    return prove_all(data, leaves=[leaf])[leaf]


def prove_all(data: bytes | memoryview, *, leaves: Iterable[int]) -> dict[int, tuple[bytes, ...]]:
    """Make the paths from some leaves to the root, with each byte hashed once."""
    hashes = _leaves(data)
    return {leaf: tuple(_path(hashes, leaf)) for leaf in leaves}


def belongs(part: bytes, *, leaf: int, size: int, path: Sequence[bytes], root: bytes) -> bool:
    """Say whether `part` is leaf number `leaf` of the vector of `size` bytes that `root` names.

    The size is known from elsewhere; a path alone does not prove it.
    """
    leaves = leaves_of(size)
    if not 0 <= leaf < leaves or len(part) != min(LEAF_BYTES, size - leaf * LEAF_BYTES):
        return False
    left = list(path)
    try:
        climbed = _climb(_leaf(memoryview(part)), leaf, leaves, left)
    except IndexError:
        return False
    return not left and climbed == root


def _path(hashes: Sequence[bytes], leaf: int) -> list[bytes]:
    if len(hashes) == 1:
        return []
    left = 1 << (len(hashes) - 1).bit_length() - 1
    if leaf < left:
        return [*_path(hashes[:left], leaf), _tree(hashes[left:])]
    return [*_path(hashes[left:], leaf - left), _tree(hashes[:left])]


def _climb(node: bytes, leaf: int, leaves: int, path: list[bytes]) -> bytes:
    """Fold the path into the root, using it up from the end."""
    if leaves == 1:
        return node
    sibling, left = path.pop(), 1 << (leaves - 1).bit_length() - 1
    if leaf < left:
        return hashlib.sha256(b"\x01" + _climb(node, leaf, left, path) + sibling).digest()
    return hashlib.sha256(b"\x01" + sibling + _climb(node, leaf - left, leaves - left, path)).digest()
