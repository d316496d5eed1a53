"""Gaussian noise on the integers, exactly distributed: nothing of a release depends on how floats are rounded.

Covers: attacks on the low bits of floating-point noise, without any argument about precision.
Does not cover: timing (the number of rejections depends on the noise that is drawn, not on the records).

All arithmetic is on integers of at most 63 bits. Randomness comes from the operating system through a key per call,
as in `partsong.client.dp.noise`.

N values.
Source: Canonne, Kamath & Steinke 2020 (arXiv 2004.00010), algorithms 1 to 3, with t = sigma: their proof holds for
every positive integer t, and this one keeps numerators small.
"""

from __future__ import annotations

import os

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

Integers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

LARGEST_SCALE = 1 << 20
"""Keeps every product below 2**63, out to 900 standard deviations."""

MOST_TAIL = 900
"""Proposals beyond this many scales are drawn again: their probability is below e**-899."""


def discrete_gaussian(count: int, *, scale: int) -> Integers:
    """Draw independent values k with probability proportional to exp(-k**2 / (2 scale**2)).

    Guarantees: exact, but for the generator and a tail of probability below e**-899; the key is not kept.
    Args:
        count: N >= 0.
        scale: sigma, 1 <= scale <= 2**20.
    """
    if not 1 <= scale <= LARGEST_SCALE:
        raise ValueError(f"scale between 1 and {LARGEST_SCALE}, not {scale}")
    words = _Words(os.urandom(32))
    result = np.zeros(count, dtype=np.int64)
    open_N = np.arange(count)
    while len(open_N):
        proposed = _discrete_laplace(words, len(open_N), scale=scale)
        distance = (np.abs(proposed) - scale) ** 2
        accepted = _exp_minus(words, distance, np.int64(2 * scale * scale))
        result[open_N[accepted]] = proposed[accepted]
        open_N = open_N[~accepted]
    return result


class _Words:
    """AES-256-CTR keystream as 64-bit words."""

    def __init__(self, key: bytes) -> None:
        self._stream = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()

    def take(self, count: int) -> npt.NDArray[np.uint64]:
        return np.frombuffer(self._stream.update(bytes(8 * count)), dtype="<u8")

    def below(self, bounds: Integers) -> Integers:
        """Draw one uniform integer in [0, bound) for each bound, below 2**63, by rejection."""
        limits = bounds.astype(np.uint64)
        words = self.take(len(limits))
        # 2**64 mod bound, computed without 2**64; words below it would make small values likelier
        uneven = (np.uint64(0) - limits) % limits
        while len(redo := np.flatnonzero(words < uneven)):
            words = words.copy()
            words[redo] = self.take(len(redo))
        return (words % limits).astype(np.int64)


def _exp_minus(words: _Words, numerator: Integers, denominator: np.int64) -> Flags:
    """Decide with probability exp(-numerator / denominator) for each entry (algorithm 1)."""
    whole, rest = np.divmod(numerator, denominator)
    alive = _exp_minus_fraction(words, rest, denominator)
    pending = np.flatnonzero(alive & (whole > 0))
    while len(pending):
        passed = _exp_minus_fraction(words, np.ones(len(pending), dtype=np.int64), np.int64(1))
        whole[pending] -= 1
        alive[pending[~passed]] = False
        pending = pending[passed & (whole[pending] > 0)]
    return alive


def _exp_minus_fraction(words: _Words, numerator: Integers, denominator: np.int64) -> Flags:
    """Decide with probability exp(-numerator / denominator), a quotient in [0, 1].

    Counts how often in a row a coin of probability quotient / k falls for k = 1, 2, ...: even with probability exp.
    """
    odd = np.ones(len(numerator), dtype=np.bool_)
    running, k = np.arange(len(numerator)), np.int64(1)
    while len(running):
        bounds = np.full(len(running), denominator * k, dtype=np.int64)
        fell = words.below(bounds) < numerator[running]
        running = running[fell]
        odd[running] = ~odd[running]
        k += 1
    return odd


def _discrete_laplace(words: _Words, count: int, *, scale: int) -> Integers:
    """Draw k with probability proportional to exp(-abs(k) / scale) (algorithm 2)."""
    result = np.zeros(count, dtype=np.int64)
    open_N = np.arange(count)
    while len(open_N):
        offset = words.below(np.full(len(open_N), scale, dtype=np.int64))
        kept = _exp_minus(words, offset, np.int64(scale))
        multiple = _geometric(words, len(open_N))
        negative = (words.take(len(open_N)) & np.uint64(1)).astype(np.bool_)
        size = offset + scale * multiple
        kept &= ~(negative & (size == 0)) & (multiple < MOST_TAIL)
        result[open_N[kept]] = np.where(negative, -size, size)[kept]
        open_N = open_N[~kept]
    return result


def _geometric(words: _Words, count: int) -> Integers:
    """Count successes of probability 1/e before the first failure."""
    result = np.zeros(count, dtype=np.int64)
    running = np.arange(count)
    while len(running):
        passed = _exp_minus_fraction(words, np.ones(len(running), dtype=np.int64), np.int64(1))
        running = running[passed]
        result[running] += 1
    return result
