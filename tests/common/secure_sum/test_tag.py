"""The tag of a sum: right for the right sum and sites, wrong for anything else."""

import os

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st

from partsong.common.derive import derive, number
from partsong.common.secure_sum.tag import PRIME, may_be_tags, tag_fits, tag_words

KEY, CONTEXT = bytes(range(32)), bytes(range(32, 64))


def tags(vectors: dict[int, np.ndarray]) -> dict[int, np.ndarray]:
    return {i: tag_words(x, group_key=KEY, context=CONTEXT, site=i) for i, x in vectors.items()}


def fits(total: np.ndarray, tag: np.ndarray, sites: list[int]) -> bool:
    return tag_fits(total, tag, group_key=KEY, context=CONTEXT, sites=sites)


def federation(seed: int, *, sites: int, words: int) -> dict[int, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {i: rng.integers(0, 2**64 // sites, words, dtype=np.uint64) for i in range(sites)}


def by_definition(words: np.ndarray, site: int) -> int:
    stream = Cipher(algorithms.AES(derive(KEY, "tag", CONTEXT)), modes.CTR(bytes(16))).encryptor()
    r = stream.update(bytes(8 * words.size))
    pad = int.from_bytes(derive(KEY, "tag pad", CONTEXT, number(site)), "big")
    return (sum(int.from_bytes(r[8 * w : 8 * w + 8], "little") * int(x) for w, x in enumerate(words)) + pad) % PRIME


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.sampled_from([1, 2, 5, 100, (1 << 14) - 1, (1 << 14) + 1]))
def test_the_tags_of_a_sum_add_up(seed: int, sites: int, words: int) -> None:
    """For any words that do not wrap, the added tags fit the added words."""
    vectors = federation(seed, sites=sites, words=words)
    each = tags(vectors)

    assert fits(sum(vectors.values()), sum(each.values()), list(vectors))
    assert all(int(part) < 2**32 for tag in each.values() for part in tag)


def test_the_tag_is_its_formula() -> None:
    """The float64 limbs give the integer of the definition, for the largest words too."""
    words = np.concatenate([np.full(40, 2**64 - 1, np.uint64), federation(1, sites=1, words=60)[0]])

    tag = tag_words(words, group_key=KEY, context=CONTEXT, site=3)

    assert sum(int(part) << (32 * i) for i, part in enumerate(tag)) == by_definition(words, 3)


def test_another_sum_is_found_out() -> None:
    """A change of any one word, by one, by a high bit or by the modulus of a smaller field, does not fit."""
    vectors = federation(2, sites=3, words=50)
    total, tag = sum(vectors.values()), sum(tags(vectors).values())

    for word in (0, 17, 49):
        for change in (1, 1 << 63, 2**61 - 1, 2**64 - 1):
            forged = total.copy()
            forged[word : word + 1] += np.uint64(change)
            assert not fits(forged, tag, [0, 1, 2])


def test_a_scaled_sum_is_found_out_because_of_the_pad() -> None:
    """Three times the sum with three times the tag fails; without pads it would pass, which is the control."""
    vectors = federation(3, sites=5, words=50)
    total = sum(vectors.values()) // np.uint64(8)
    tag = tags({0: total})[0]
    pad = int.from_bytes(derive(KEY, "tag pad", CONTEXT, number(0)), "big") % PRIME
    bare = by_definition(total, 0) - pad

    assert fits(total, tag, [0])
    assert not fits(total * np.uint64(3), tag * np.uint64(3), [0])
    assert (3 * bare - (by_definition(total * np.uint64(3), 0) - pad)) % PRIME == 0


@pytest.mark.parametrize("sites", [[0, 1], [0, 1, 2, 3], [0, 1, 3], []])
def test_the_sum_of_other_sites_is_found_out(sites: list[int]) -> None:
    """The pads pin who was added."""
    vectors = federation(4, sites=3, words=20)

    assert not fits(sum(vectors.values()), sum(tags(vectors).values()), sites)


def test_a_tag_of_another_round_or_group_does_not_fit() -> None:
    """Coefficients and pads are fresh for each context and key."""
    vectors = federation(5, sites=2, words=20)
    total, tag = sum(vectors.values()), sum(tags(vectors).values())

    assert not tag_fits(total, tag, group_key=KEY, context=bytes(32), sites=[0, 1])
    assert not tag_fits(total, tag, group_key=os.urandom(32), context=CONTEXT, sites=[0, 1])


def test_the_field_is_prime_and_larger_than_a_word() -> None:
    """Lucas-Lehmer for 2**89 - 1."""
    value = 4
    for _ in range(87):
        value = (value * value - 2) % PRIME

    assert value == 0
    assert PRIME > 2**64


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 1000), st.binary(min_size=32, max_size=32), st.integers(0, 2))
def test_sums_of_tags_may_be_tags_and_uniform_words_may_not(sites: int, context: bytes, place: int) -> None:
    """Without any key; one word off the range is enough, the largest honest sum is inside."""
    words = np.arange(20, dtype=np.uint64)
    some = min(sites, 5)
    total = sum(tag_words(words, group_key=bytes(32), context=context, site=i) for i in range(some))
    most = np.array([sites * (2**32 - 1), sites * (2**32 - 1), sites * (2**25 - 1)], np.uint64)
    over = most.copy()
    over[place] += np.uint64(1)
    noise = np.random.default_rng(list(context)).integers(0, 2**64, 3, dtype=np.uint64)

    assert may_be_tags(total, sites=some)
    assert may_be_tags(most, sites=sites)
    assert not may_be_tags(over, sites=sites)
    assert not may_be_tags(noise, sites=sites)
