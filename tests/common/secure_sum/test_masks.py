"""Key streams on words: the published cipher, any cut, any number of threads, and nothing left when taken off."""

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st

from partsong.common.secure_sum.masks import apply_masks

KEYS = [bytes([i]) * 32 for i in range(5)]


def slow_stream(key: bytes, words: int) -> list[int]:
    stream = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor().update(bytes(8 * words))
    return [int.from_bytes(stream[8 * w : 8 * w + 8], "little") for w in range(words)]


def test_the_stream_is_that_of_sp_800_38a() -> None:
    """Appendix F.5.5, entered at its counter: the stream on zero words, xored with the text, is the ciphertext."""
    key = bytes.fromhex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4")
    counter = int.from_bytes(bytes(range(0xF0, 0x100)), "big")
    text = bytes.fromhex(
        "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51"
        "30c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710"
    )
    words = np.zeros(8, np.uint64)

    apply_masks(words, plus=[key], minus=[], first_word=2 * counter)

    stream = words.astype("<u8").tobytes()
    assert bytes(a ^ b for a, b in zip(stream, text, strict=True)) == bytes.fromhex(
        "601ec313775789a5b7a7f504bbf3d228f443e3ca4d62b59aca84e990cacaf5c5"
        "2b0930daa23de94ce87017ba2d84988ddfc9c58db67aada613c2dd08457941a6"
    )


@settings(deadline=None)
@given(st.integers(1, 70), st.integers(0, 3), st.integers(0, 3), st.integers(0, 2**64 - 1))
def test_masks_are_added_modulo_the_ring(words: int, plus: int, minus: int, value: int) -> None:
    """The fast kernel equals Python integers modulo 2**64, wrap-around included."""
    vector = np.full(words, value, np.uint64)

    apply_masks(vector, plus=KEYS[:plus], minus=KEYS[plus : plus + minus][:2])

    taken = KEYS[plus : plus + minus][:2]
    for w in range(words):
        wanted = (
            value + sum(slow_stream(k, words)[w] for k in KEYS[:plus]) - sum(slow_stream(k, words)[w] for k in taken)
        )
        assert int(vector[w]) == wanted % 2**64


@pytest.mark.parametrize("words", [1, 2, (1 << 15) - 1, 1 << 15, (1 << 15) + 1, 100_001])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_any_cut_and_any_number_of_threads_give_the_same(words: int, threads: int) -> None:
    """Sizes around the cache block, entered at the start or in the middle, on one thread or three."""
    whole = np.zeros(words, np.uint64)
    apply_masks(whole, plus=KEYS[:2], minus=KEYS[2:3])
    cut = np.zeros(words, np.uint64)
    middle = words // 4 * 2

    apply_masks(cut[:middle], plus=KEYS[:2], minus=KEYS[2:3], threads=threads)
    apply_masks(cut[middle:], plus=KEYS[:2], minus=KEYS[2:3], threads=threads, first_word=middle)

    assert (whole == cut).all()


def test_masks_of_all_pairs_vanish_in_the_sum() -> None:
    """What one site adds the other takes away; one missing site leaves noise: the control."""
    sites, words = 4, 1000
    key = {(i, j): bytes([i, j]) * 16 for i in range(sites) for j in range(i + 1, sites)}
    vectors = [np.full(words, i + 1, np.uint64) for i in range(sites)]
    for i, vector in enumerate(vectors):
        plus = [key[i, j] for j in range(i + 1, sites)]
        apply_masks(vector, plus=plus, minus=[key[j, i] for j in range(i)])

    assert (sum(vectors[1:], vectors[0].copy()) == 10).all()
    assert not (sum(vectors[2:], vectors[1].copy()) == 9).any()


def test_an_odd_entry_is_refused() -> None:
    """Two words share a cipher block; entering between them is an error, not a shifted stream."""
    with pytest.raises(ValueError, match="even"):
        apply_masks(np.zeros(4, np.uint64), plus=KEYS[:1], minus=[], first_word=1)


def test_a_masked_constant_looks_uniform() -> None:
    """Bytes of one masked word repeated pass a chi-square test that the bare words fail by far."""
    words = np.full(200_000, 7, np.uint64)

    def chi_square(vector: np.ndarray) -> float:
        counts = np.bincount(vector.view(np.uint8), minlength=256)
        expected = counts.sum() / 256
        return float(((counts - expected) ** 2 / expected).sum())

    bare = chi_square(words)
    apply_masks(words, plus=KEYS[:1], minus=[])

    # 255 degrees of freedom: mean 255, standard deviation 22.6; the key is fixed, so this never flickers.
    assert 255 - 5 * 22.6 < chi_square(words) < 255 + 5 * 22.6
    assert bare > 1e6
