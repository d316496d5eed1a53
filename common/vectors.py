"""Vectors as the bytes that travel beside a header, and their digest.

Covers: exact length, finite numbers, one byte order everywhere.
Does not cover: what the numbers mean (`partsong.common.adapters.adapter`, `partsong.common.secure_sum.fixed_point`).
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from partsong.common.errors import WireError

_FLOAT_BYTES, _WORD_BYTES = 4, 8
_REMEMBERED = 4
_Known = dict[tuple[int, int], str]


def vector_bytes(vector: NDArray[np.float32] | NDArray[np.uint64]) -> bytes:
    """Little-endian bytes of a vector."""
    return vector.astype(vector.dtype.newbyteorder("<"), copy=False).tobytes()


def floats(data: bytes, *, size: int) -> NDArray[np.float32]:
    """Decode `size` finite float32 numbers, exactly."""
    vector = np.frombuffer(_exact(data, size=size, width=_FLOAT_BYTES), dtype="<f4").astype(np.float32)
    if not np.isfinite(vector).all():
        raise WireError("vector: a number that is not finite")
    return vector


def words(data: bytes, *, size: int) -> NDArray[np.uint64]:
    """View `size` 64-bit words, exactly; they are read-only, and on a little-endian machine not copied."""
    return np.frombuffer(_exact(data, size=size, width=_WORD_BYTES), dtype="<u8").astype(np.uint64, copy=False)


def _exact(data: bytes, *, size: int, width: int) -> bytes:
    if len(data) != size * width:
        raise WireError(f"vector: found {len(data)} bytes, expected {size * width}")
    return data


class _Newest:
    """Digests of the vectors that came last, and of their parts."""

    def __init__(self) -> None:
        self._vectors: deque[tuple[bytes, _Known]] = deque(maxlen=_REMEMBERED)

    def digest(self, data: bytes, *, first: int, stop: int) -> str:
        known = next((digests for vector, digests in self._vectors if vector is data), None)
        if known is None:
            known = {}
            self._vectors.append((data, known))
        if (first, stop) not in known:
            known[first, stop] = _digest(data, first=first, stop=stop)
        return known[first, stop]


_once: list[_Newest] = []


@contextmanager
def hashed_once() -> Iterator[None]:
    """Let this process hash one and the same vector once, for simulations that hand it to many sites.

    Guarantees: `vector_digest` says the same as without. It goes by the object, which has to be `bytes` and so never
        changes; equal bytes of another object are hashed again.
    """
    _once.append(_Newest())
    try:
        yield
    finally:
        _once.pop()


def vector_digest(data: bytes, *, first: int = 0, stop: int) -> str:
    """SHA-256 over some of the numbers of a vector, as `partsong.common.adapters.adapter.digest` gives it.

    Args:
        data: of the whole vector.
        first: number to begin with.
        stop: number to end before.
    """
    if _once and type(data) is bytes:
        return _once[-1].digest(data, first=first, stop=stop)
    return _digest(data, first=first, stop=stop)


def _digest(data: bytes, *, first: int, stop: int) -> str:
    return hashlib.sha256(memoryview(data)[_FLOAT_BYTES * first : _FLOAT_BYTES * stop]).hexdigest()
