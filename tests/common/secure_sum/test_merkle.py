"""The tree of RFC 6962 over 64 KiB leaves."""

import hashlib
import os

import pytest

from partsong.common.secure_sum.merkle import LEAF_BYTES, belongs, leaves_of, prove, root_of


def by_definition(leaves: list[bytes]) -> bytes:
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\x00" + leaves[0]).digest()
    k = 1
    while 2 * k < len(leaves):
        k *= 2
    return hashlib.sha256(b"\x01" + by_definition(leaves[:k]) + by_definition(leaves[k:])).digest()


@pytest.mark.parametrize("size", [0, 1, LEAF_BYTES - 1, LEAF_BYTES, LEAF_BYTES + 1, 5 * LEAF_BYTES, 8 * LEAF_BYTES + 7])
def test_the_root_is_its_definition(size: int) -> None:
    """For sizes around a leaf and trees that are not full."""
    data = os.urandom(size)
    leaves = [data[start : start + LEAF_BYTES] for start in range(0, size, LEAF_BYTES)]

    assert root_of(data) == by_definition(leaves)


def test_one_bit_anywhere_is_another_root() -> None:
    """Also in the last, short leaf, and one byte more or less."""
    data = bytes(2 * LEAF_BYTES + 10)
    roots = {root_of(data), root_of(data + b"\0"), root_of(data[:-1])}
    for place in (0, LEAF_BYTES, 2 * LEAF_BYTES + 9):
        changed = bytearray(data)
        changed[place] ^= 1
        roots.add(root_of(bytes(changed)))

    assert len(roots) == 6


@pytest.mark.parametrize("leaves", [1, 2, 3, 5, 8, 11])
def test_every_leaf_is_shown_to_belong_and_nothing_else_is(leaves: int) -> None:
    """The right part at the right place with the whole path; any other part, place, path or root fails."""
    size = leaves * LEAF_BYTES - 100
    data = os.urandom(size)
    root = root_of(data)
    assert leaves_of(size) == leaves
    for leaf in range(leaves):
        part = data[leaf * LEAF_BYTES : (leaf + 1) * LEAF_BYTES]
        good = {"leaf": leaf, "size": size, "path": prove(data, leaf=leaf), "root": root}

        assert belongs(part, **good)
        assert not belongs(bytes([part[0] ^ 1]) + part[1:], **good)
        assert not belongs(part[:-1], **good)
        assert not belongs(part + b"x", **good)
        for change in (
            {"leaf": leaf + 1},
            {"leaf": leaf - 1},
            {"root": bytes(32)},
            {"path": (*good["path"], bytes(32))},
            {"path": (bytes(32), *good["path"])[:-1] if leaves > 1 else (b"",)},
        ):
            assert not belongs(part, **(good | change))
