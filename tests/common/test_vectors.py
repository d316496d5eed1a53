"""The digest of a vector's bytes is that of its numbers, hashed once or every time."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partsong.common import wire
from partsong.common.adapters.adapter import digest
from partsong.common.vectors import hashed_once, vector_digest


@given(st.integers(0, 50), st.integers(0, 50), st.integers(0, 2**32 - 1))
@settings(max_examples=50, deadline=None)
def test_the_digest_of_bytes_is_that_of_the_numbers(first: int, more: int, seed: int) -> None:
    """Of any part of a vector, on the first look and on later ones."""
    vector_P = np.random.default_rng(seed).standard_normal(100).astype(np.float32)
    data = wire.vector_bytes(vector_P)

    with hashed_once():
        once = [vector_digest(data, first=first, stop=first + more) for _ in range(2)]

    expected = digest(vector_P[first : first + more])
    assert once == [expected, expected]
    assert vector_digest(data, first=first, stop=first + more) == expected


def test_each_of_many_vectors_keeps_its_own_digest() -> None:
    """More vectors than are remembered, asked for in turn, and equal bytes of another object among them."""
    vectors = [bytes([i % 7]) * 400 for i in range(20)]

    with hashed_once():
        found = [vector_digest(data, stop=100) for _ in range(3) for data in vectors]

    assert found == [hashlib.sha256(data).hexdigest() for data in vectors] * 3


def test_bytes_that_can_change_are_hashed_every_time() -> None:
    """Control: going by the object would give the old digest."""
    data = bytearray(400)

    with hashed_once():
        before = vector_digest(data, stop=100)  # type: ignore[arg-type]  # what no caller in the product does
        data[0] = 1
        after = vector_digest(data, stop=100)  # type: ignore[arg-type]

    assert before != after == hashlib.sha256(data).hexdigest()


def test_nothing_is_remembered_outside_of_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon hashes whenever it is asked to."""
    data, asked = bytes(400), list[int]()
    real = hashlib.sha256
    monkeypatch.setattr(hashlib, "sha256", lambda part: (asked.append(len(part)), real(part))[1])

    for _ in range(2):
        vector_digest(data, stop=100)
    with hashed_once():
        for _ in range(2):
            vector_digest(data, stop=100)

    assert asked == [400, 400, 400]
