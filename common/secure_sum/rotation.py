"""A public random rotation that spreads the energy of any vector evenly over its coordinates.

Two rounds of sign flips and Walsh-Hadamard transforms. The vector is padded to `height * width` entries. Round
one transforms the columns of its (height, width) view, whose entries stand `width` apart; round two transforms
the runs of `height` neighbours. Each run holds entries of every column, so no pattern of the input survives:
afterwards a coordinate behaves like a centred sum of signs with variance close to |x|^2 / padded size.

Only additions, subtractions and one multiplication by a power of two happen, in a fixed order: the result is
bit-identical on every machine.

Shapes: P entries of the vector, D = height * width entries after padding.

Source: Ailon and Chazelle 2009 (randomised Hadamard transform); Suresh et al. 2017 (arXiv 1611.00429, section 3)
for its use before quantisation.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR

FloatVec = npt.NDArray[np.floating[Any]]

SEED_BYTES = 32
# Scratch that stays in the second-level cache of current processors.
_SCRATCH_BYTES = 1 << 19
# For each byte its bits as signs, the lowest first: -1 for a one.
_SIGNS = 1 - 2 * np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little").astype(np.int8)


def padded_shape(size: int) -> tuple[int, int]:
    """Choose (height, width) for a vector of `size` entries.

    Guarantees:
        - height is a power of two and at least four times the width, or the whole vector fits one column;
        - the padding is below 4 sqrt(size) entries.
    """
    column = 1 << (size - 1).bit_length()
    height = min(column, 1 << ((4 * size - 1).bit_length() + 1) // 2)
    return height, -(-size // height)


def rotate(padded_D: FloatVec, *, shape: tuple[int, int], seed: bytes) -> None:
    """Rotate in place.

    Guarantees:
        - orthonormal up to float rounding: lengths and inner products stay as they are;
        - depends on `seed` and `shape` alone, never on the values.
    Args:
        padded_D: (D,) contiguous, D = height * width of `shape`; changed in place.
        shape: of `padded_shape`.
        seed: 32 public bytes, fresh for every vector that is to be spread on its own.
    """
    height, width = shape
    _flip(padded_D, seed=seed, stage=1)
    _transform_columns(padded_D.reshape(height, width))
    _flip(padded_D, seed=seed, stage=2)
    _transform_columns(padded_D.reshape(width, height).T)
    padded_D *= padded_D.dtype.type(1 / height)


def rotate_back(padded_D: FloatVec, *, shape: tuple[int, int], seed: bytes) -> None:
    """Undo `rotate` in place; same arguments, same guarantees."""
    height, width = shape
    _transform_columns(padded_D.reshape(width, height).T)
    _flip(padded_D, seed=seed, stage=2)
    _transform_columns(padded_D.reshape(height, width))
    _flip(padded_D, seed=seed, stage=1)
    padded_D *= padded_D.dtype.type(1 / height)


def _flip(padded_D: FloatVec, *, seed: bytes, stage: int) -> None:
    """Change the sign where the key stream has a one: bit i % 8 of byte i // 8 belongs to entry i."""
    key = hashlib.sha256(b"partsong/1 rotation" + bytes([stage]) + seed).digest()
    stream = Cipher(AES256(key), CTR(bytes(16))).encryptor().update(bytes(-(-padded_D.size // 8)))
    bits, signs = np.frombuffer(stream, np.uint8), _SIGNS.astype(padded_D.dtype)
    step = 1 << 15
    room = np.empty((step // 8, 8), padded_D.dtype)
    for start in range(0, padded_D.size, step):
        part, places = padded_D[start : start + step], bits[start // 8 : (start + step) // 8]
        # Every byte is a row of the table; without a mode numpy would check that, at three times the cost.
        part *= np.take(signs, places, axis=0, out=room[: places.size], mode="clip").reshape(-1)[: part.size]


def _transform_columns(matrix: FloatVec) -> None:
    """Transform each column of a (height, width) view, without the factor 1 / sqrt(height)."""
    height, width = matrix.shape
    columns = max(1, _SCRATCH_BYTES // (matrix.itemsize * height))
    for start in range(0, width, columns):
        scratch = np.ascontiguousarray(matrix[:, start : start + columns])
        _butterflies(scratch)
        matrix[:, start : start + columns] = scratch


def _butterflies(block: FloatVec) -> None:
    height, width = block.shape
    half = np.empty(height * width // 2, block.dtype)
    span = 1
    while span < height:
        pairs = block.reshape(height // (2 * span), 2, span * width)
        upper, lower = pairs[:, 0], pairs[:, 1]
        difference = half.reshape(upper.shape)
        np.subtract(upper, lower, out=difference)
        upper += lower
        lower[...] = difference
        span *= 2
