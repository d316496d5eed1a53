"""Key streams added to and taken from words, at the speed of AES.

Covers: a word that got the stream of one unknown key is uniform to everyone else.
Does not cover: using a key for two vectors. Callers derive a key per context and never mask twice under it.

The stream of a 32-byte key is AES-256-CTR of zeros with the counter starting at zero. Word w is bytes
8w..8w+7 of it, little-endian. It can be entered anywhere, so threads share the words, not the keys.

Shapes: W words.

Source: counter mode, NIST SP 800-38A section 6.5; masks that cancel in a sum, Bonawitz et al. 2017 (ia.cr/2017/281).
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, repeat

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR

from partsong.common.secure_sum.fixed_point import WordVec

# The stream of one key is added to this many words before the next key's: both stay in the second-level cache.
_BLOCK_WORDS = 1 << 15
_WORDS_PER_AES_BLOCK = 2
_ZEROS = np.zeros(8 * _BLOCK_WORDS, np.uint8)
_ZEROS.flags.writeable = False
# How a word lies in bytes, on every machine.
STREAM_WORD = np.dtype("<u8")


def apply_masks(
    words_W: WordVec, *, plus: Sequence[bytes], minus: Sequence[bytes], first_word: int = 0, threads: int = 1
) -> None:
    """Add the streams of `plus` and take away those of `minus`, in place, modulo 2**64.

    Guarantees:
        - applying the same keys with `plus` and `minus` exchanged restores the words;
        - the result does not depend on `threads` or on how a vector is cut into calls.
    Args:
        words_W: (W,) contiguous; changed in place.
        plus: 32-byte keys.
        minus: 32-byte keys.
        first_word: place of `words_W[0]` in the whole vector, even.
        threads: workers; the cipher releases the interpreter lock.
    """
    if first_word % _WORDS_PER_AES_BLOCK:
        raise ValueError(f"first_word: found {first_word}, expected an even number")
    share = -(-words_W.size // max(1, threads))
    share += share % _WORDS_PER_AES_BLOCK
    starts = range(0, words_W.size, max(share, _WORDS_PER_AES_BLOCK))
    if len(starts) <= 1:
        _apply(words_W, plus, minus, first_word)
        return
    parts = [words_W[start : start + share] for start in starts]
    with ThreadPoolExecutor(len(parts)) as pool:
        firsts = [first_word + start for start in starts]
        list(pool.map(_apply, parts, repeat(plus), repeat(minus), firsts))


def _apply(words_W: WordVec, plus: Sequence[bytes], minus: Sequence[bytes], first_word: int) -> None:
    streams = [_stream(key, first_word) for key in chain(plus, minus)]
    scratch = np.empty(8 * min(_BLOCK_WORDS, words_W.size), np.uint8)
    for start in range(0, words_W.size, _BLOCK_WORDS):
        block = words_W[start : start + _BLOCK_WORDS]
        keystream = scratch[: 8 * block.size]
        masks: npt.NDArray[np.uint64] = keystream.view(STREAM_WORD)
        for place, stream in enumerate(streams):
            stream.update_into(_ZEROS[: keystream.size].data, keystream.data)
            (np.add if place < len(plus) else np.subtract)(block, masks, out=block)


def _stream(key: bytes, first_word: int) -> CipherContext:
    counter = (first_word // _WORDS_PER_AES_BLOCK).to_bytes(16, "big")
    return Cipher(AES256(key), CTR(counter)).encryptor()
