"""Gaussian noise that nobody can predict, replay or read off its rounding.

Covers: an observer of everything that is released, who knows the code and all earlier noise; duplicated virtual
    machines and resumed processes (each release has a key of its own); attacks on the gaps between floating-point
    Gaussians.
Does not cover: an observer of the machine's memory or of its timing; arithmetic in real numbers is approximated
    with 53 bits, not proven (a discrete Gaussian on the grid of the secure sum would close that gap).

There is no seed, no state and no argument for either: a key lives for one call.

N noise values.
"""

from __future__ import annotations

import os

import numpy as np
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

KEY_BYTES, COUNTER_BYTES, WORD_BYTES = 32, 16, 8

ADDENDS = 4
"""Standard normals that are added and halved into one. Undoing the rounding of a single one takes some 2**53
trials, of a sum of 2n about 2**53 (2n - 1); n = 2 as in Opacus' secure mode."""

CHUNK = 1 << 18
"""Noise values made at a time; bounds working memory to some 30 MB."""


def standard_normal(count: int) -> torch.Tensor:
    """Draw independent standard normal values from a fresh key.

    Guarantees:
        - (N,) float64, every entry finite and at most 16.5 in size;
        - the key comes from the operating system, serves this call alone and is not kept.
    Args:
        count: N >= 0.
    Source: Holohan & Braghin 2021 (arXiv 2107.10138), section 5.1, for the sum; Mironov 2012 and Jin et al. 2021
        (arXiv 2112.05307) for the attacks; NIST SP 800-38A for counter mode.
    """
    return _expand(os.urandom(KEY_BYTES), count)


def _expand(key: bytes, count: int) -> torch.Tensor:
    """Turn a key into `count` values: AES-256-CTR keystream, uniforms, normal quantiles, sums of four."""
    stream = Cipher(algorithms.AES(key), modes.CTR(bytes(COUNTER_BYTES))).encryptor()
    noise_N = torch.empty(count, dtype=torch.float64)
    for start in range(0, count, CHUNK):
        part = noise_N[start : start + CHUNK]
        keystream = stream.update(bytes(len(part) * ADDENDS * WORD_BYTES))
        uniform = torch.from_numpy(_uniform(np.frombuffer(keystream, dtype="<u8")))
        part.copy_(torch.special.ndtri(uniform).view(-1, ADDENDS).sum(dim=1) / ADDENDS**0.5)
    return noise_N


def _uniform(words: np.ndarray[tuple[int], np.dtype[np.uint64]]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Map 64-bit words to odd multiples of 2**-53: exact, symmetric about 1/2, never 0 or 1."""
    odd = (words >> np.uint64(12)) * np.uint64(2) + np.uint64(1)
    return odd.astype(np.float64) * 2.0**-53
