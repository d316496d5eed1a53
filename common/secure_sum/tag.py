"""A linear tag with which sites check the sum that the coordinator announces.

Covers: a coordinator that does not know the group key, and announces another sum, or the sum as that of other
sites, is found out except with probability 2**-64.
Does not cover: a coordinator that works with one of the sites, all of which hold the group key.

The tag of words x_0..x_{W-1} at site i is <r, x> + s_i modulo p = 2**89 - 1, with r_w 64 bits of a key stream and
s_i a pad of the site, both fresh for each context. It travels as three 32-bit parts in words of their own, so the
parts add up like all other words. The pad is what keeps a tag from being scaled together with the sum.

p is above 2**64 because a word is: over a smaller field, words that differ by p would have equal tags. One product
with 64-bit coefficients forges as rarely as two with 32-bit ones and costs the same.

Shapes: W words.

Source: universal hashing as a one-time authenticator, Wegman and Carter 1981.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR

from partsong.common.derive import derive, number
from partsong.common.secure_sum.fixed_point import WordVec

PRIME = 2**89 - 1
TAG_WORDS = 3
_PART_BITS = 32
_LIMB_BITS = 16
_LIMBS = 4
# Sums of this many products of two 16-bit limbs stay exact in float64, and the arrays in the cache.
_CHUNK_WORDS = 1 << 14


def tag_words(words_W: WordVec, *, group_key: bytes, context: bytes, site: int) -> WordVec:
    """Compute the tag of one site's words.

    Args:
        words_W: (W,) encoded vector, before masking.
        group_key: 32 bytes that all sites of the run know and the coordinator does not.
        context: 32 bytes that name this one sum.
        site: number of this site.
    Returns:
        (3,) words below 2**32, to be appended to the vector.
    """
    value = (_inner(words_W, group_key, context) + _pad(group_key, context, site)) % PRIME
    return np.array([value >> (_PART_BITS * i) & (2**_PART_BITS - 1) for i in range(TAG_WORDS)], np.uint64)


def may_be_tags(tag_W: WordVec, *, sites: int) -> bool:
    """Say whether words can be the sum of so many sites' tag words; needs no key.

    Guarantees:
        - true for every sum of honest tags; for uniform words, as a wrong seed leaves them, with chance
          `sites`**3 * 2**-103 at most.
    """
    widths = (_PART_BITS, _PART_BITS, PRIME.bit_length() - 2 * _PART_BITS)
    return all(int(word) <= sites * (2**bits - 1) for word, bits in zip(tag_W, widths, strict=True))


def tag_fits(words_W: WordVec, tag_W: WordVec, *, group_key: bytes, context: bytes, sites: Sequence[int]) -> bool:
    """Say whether `words_W` is the sum of what exactly `sites` tagged.

    Args:
        words_W: (W,) announced sum.
        tag_W: (3,) announced sum of the tag words.
        group_key: as for `tag_words`.
        context: as for `tag_words`.
        sites: numbers of the sites whose vectors were added.
    """
    announced = sum(int(part) << (_PART_BITS * i) for i, part in enumerate(tag_W))
    expected = _inner(words_W, group_key, context) + sum(_pad(group_key, context, site) for site in sites)
    return (announced - expected) % PRIME == 0


def _pad(group_key: bytes, context: bytes, site: int) -> int:
    return int.from_bytes(derive(group_key, "tag pad", context, number(site)), "big") % PRIME


def _inner(words_W: WordVec, group_key: bytes, context: bytes) -> int:
    """Compute <r, x> modulo p from exact float64 products of 16-bit limbs."""
    stream = Cipher(AES256(derive(group_key, "tag", context)), CTR(bytes(16))).encryptor()
    limbs = np.zeros((_LIMBS, _LIMBS), object)
    for start in range(0, words_W.size, _CHUNK_WORDS):
        part = words_W[start : start + _CHUNK_WORDS].astype("<u8", copy=False)
        x = part.view("<u2").reshape(-1, _LIMBS).astype(np.float64)
        r = np.frombuffer(stream.update(bytes(8 * part.size)), "<u2").reshape(-1, _LIMBS).astype(np.float64)
        limbs += (r.T @ x).astype(np.int64).astype(object)
    total = sum(int(limbs[a, b]) << (_LIMB_BITS * (a + b)) for a in range(_LIMBS) for b in range(_LIMBS))
    return total % PRIME
