"""Gaussian noise that nobody can predict, replay or read off its rounding.

Covers: an observer of everything that is released, who knows the code and all earlier noise; duplicated virtual
    machines and resumed processes (each release has a key of its own); attacks on the gaps between floating-point
    Gaussians.
Does not cover: an observer of the machine's memory or of its timing; arithmetic in real numbers is approximated
    with 53 bits, not proven (`partsong.client.dp.discrete` closes that gap, at ten times the time).

There is no seed, no state and no argument for either: a key lives for one call.

N noise values.
"""

from __future__ import annotations

import math
import os

import numpy as np
import numpy.typing as npt
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

KEY_BYTES, COUNTER_BYTES, WORD_BYTES = 32, 16, 8

ADDENDS = 4
"""Standard normals that are added and halved into one. Undoing the rounding of a single one takes some 2**53
trials, of a sum of 2n about 2**53 (2n - 1); n = 2 as in Opacus' secure mode."""

CHUNK = 1 << 13
"""Noise values made at a time: 512 kB of work, which stays in the cache. A million values take 30 ms of one core."""


def standard_normal(count: int) -> torch.Tensor:
    """Draw independent standard normal values from a fresh key.

    Guarantees:
        - (N,) float64, every entry finite and at most 17.2 in size;
        - the key comes from the operating system, serves this call alone and is not kept.
    Args:
        count: N >= 0.
    Source: Holohan & Braghin 2021 (arXiv 2107.10138), section 5.1, for the sum; Mironov 2012 and Jin et al. 2021
        (arXiv 2112.05307) for the attacks; Box & Muller 1958; NIST SP 800-38A for counter mode.
    """
    return _expand(os.urandom(KEY_BYTES), count)


def _expand(key: bytes, count: int) -> torch.Tensor:
    """Turn a key into `count` values: AES-256-CTR keystream, uniforms, normal pairs, sums of four."""
    stream = Cipher(algorithms.AES(key), modes.CTR(bytes(COUNTER_BYTES))).encryptor()
    zeros = bytes(CHUNK * ADDENDS * WORD_BYTES)
    keystream = bytearray(len(zeros) + COUNTER_BYTES - 1)  # room that `update_into` asks for
    words = np.frombuffer(keystream, dtype="<u8", count=CHUNK * ADDENDS)
    noise_N = torch.empty(count, dtype=torch.float64)
    for start in range(0, count, CHUNK):
        stream.update_into(zeros, keystream)
        part = noise_N[start : start + CHUNK]
        part.copy_(_half_sums(_uniform(words))[: len(part)])
    return noise_N


def _uniform(words: npt.NDArray[np.uint64]) -> npt.NDArray[np.float64]:
    """Map 64-bit words to odd multiples of 2**-53: exact, symmetric about 1/2, never 0 or 1."""
    odd = (words >> np.uint64(12)) * np.uint64(2) + np.uint64(1)
    uniform: npt.NDArray[np.float64] = np.multiply(odd, 2.0**-53, dtype=np.float64)
    return uniform


def _half_sums(uniform: npt.NDArray[np.float64]) -> torch.Tensor:
    """Make CHUNK values of 4 * CHUNK uniforms: two normal pairs each, half of their sum.

    The sines move on by one place, so that no value holds both members of a pair.
    """
    radius, angle = torch.from_numpy(uniform).view(2, 2, CHUNK)
    radius = radius.log_().mul_(-0.5).sqrt_()  # sqrt(-2 ln u) / 2
    angle = angle.mul_(2 * math.pi)
    cosines, sines = torch.cos(angle).mul_(radius), torch.sin(angle).mul_(radius)
    return cosines.sum(dim=0) + torch.roll(sines.sum(dim=0), 1)
