"""What the encoding does not take, and what is no sum."""

import math

import numpy as np
import pytest

from partsong.common.build import build
from partsong.common.errors import ConfigError, PartsongError, RoundAborted
from partsong.common.secure_sum.fixed_point import (
    Block,
    Encoding,
    EncodingError,
    NotFinite,
    SumOutOfRange,
    add_into,
    decode_sum,
    encode,
)

SEED = bytes(range(32))


TREE = {
    "blocks": [
        {"name": "update", "size": 300, "clip": 2.0, "norm": "l2", "rotate": True},
        {"name": "metrics", "size": 3, "clip": 8.0, "norm": "linf", "rotate": False},
    ],
    "field_bits": 21,
    "max_sites": 5,
}


ENCODING = build(Encoding, TREE)


def single(*, size: int, field_bits: int, max_sites: int, rotate: bool, clip: float = 1.0) -> Encoding:
    norm = "l2" if rotate else "linf"
    block = Block(name="x", size=size, clip=clip, norm=norm, rotate=rotate)
    return Encoding(blocks=(block,), field_bits=field_bits, max_sites=max_sites)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["update", "metrics"])
def test_what_is_not_finite_is_refused(name: str, bad: float) -> None:
    """One bad value anywhere stops everything, and the error does not say where in the block it stood."""
    values = {"update": np.zeros(300, np.float32), "metrics": np.zeros(3)}
    values[name][1] = bad

    with pytest.raises(NotFinite) as caught:
        encode(values, ENCODING, rotation_seed=SEED, rng=np.random.default_rng(0))

    assert str(caught.value) == f"block {name}: found a value that is not finite, expected finite values"


GOOD = {"update": np.zeros(300), "metrics": np.zeros(3)}


@pytest.mark.parametrize(
    "values",
    [
        {"update": np.zeros(300)},
        GOOD | {"more": np.zeros(1)},
        GOOD | {"update": np.zeros(299)},
        GOOD | {"update": np.zeros((300, 1))},
        GOOD | {"update": np.zeros(300, np.int64)},
        GOOD | {"update": np.zeros(300, np.float16)},
    ],
)
def test_values_of_another_shape_are_refused(values: dict[str, np.ndarray]) -> None:
    """Names, sizes and types are those of the encoding or nothing is encoded."""
    with pytest.raises(EncodingError, match="found"):
        encode(values, ENCODING, rotation_seed=SEED, rng=np.random.default_rng(0))


def test_a_field_that_is_too_large_is_no_sum() -> None:
    """A word that `sites` honest vectors cannot make is refused, one step above the largest."""
    encoding = single(size=3, field_bits=16, max_sites=4, rotate=False)
    largest = 2 * 2 * encoding.top
    good = np.array([largest | largest << 16 | largest << 32], np.uint64)

    assert decode_sum(good, encoding, sites=2, rotation_seed=SEED)["x"] == pytest.approx(np.full(3, 2.0))
    for lane in range(3):
        with pytest.raises(SumOutOfRange, match="too large"):
            decode_sum(good + np.uint64(1 << (16 * lane)), encoding, sites=2, rotation_seed=SEED)


@pytest.mark.parametrize("bit", [48, 63])
def test_a_bit_outside_every_field_is_no_sum(bit: int) -> None:
    """Unused fields and unused bits of a word are zero."""
    encoding = single(size=3, field_bits=16, max_sites=4, rotate=False)

    with pytest.raises(SumOutOfRange, match="outside"):
        decode_sum(np.array([1 << bit], np.uint64), encoding, sites=2, rotation_seed=SEED)


def test_the_bit_above_the_last_field_is_no_sum() -> None:
    """Three fields of 21 bits leave one bit over."""
    encoding = single(size=3, field_bits=21, max_sites=4, rotate=False)

    with pytest.raises(SumOutOfRange, match="outside"):
        decode_sum(np.array([1 << 63], np.uint64), encoding, sites=2, rotation_seed=SEED)


@pytest.mark.parametrize("sites", [0, 6, -1])
def test_a_number_of_sites_beyond_the_plan_is_refused(sites: int) -> None:
    """Only 1 to max_sites vectors can have been added."""
    with pytest.raises(EncodingError, match="expected 1 to 5"):
        decode_sum(np.zeros(ENCODING.words(), np.uint64), ENCODING, sites=sites, rotation_seed=SEED)


@pytest.mark.parametrize("change", [{"dtype": np.int64}, {"shape": -1}, {"shape": 1}])
def test_words_of_another_shape_are_refused(change: dict[str, object]) -> None:
    """Neither decoding nor adding takes other lengths or types, and the total stays."""
    words = np.zeros(ENCODING.words() + int(change.get("shape", 0)), change.get("dtype", np.uint64))
    total = np.ones(ENCODING.words(), np.uint64)

    with pytest.raises(EncodingError):
        decode_sum(words, ENCODING, sites=1, rotation_seed=SEED)
    with pytest.raises(EncodingError):
        add_into(total, words)

    assert (total == 1).all()


@pytest.mark.parametrize("seed", [b"", bytes(31), bytes(33)])
def test_a_seed_of_another_length_is_refused(seed: bytes) -> None:
    """The rotation seed is 32 bytes in both directions."""
    with pytest.raises(EncodingError, match="rotation_seed"):
        encode(GOOD, ENCODING, rotation_seed=seed, rng=np.random.default_rng(0))
    with pytest.raises(EncodingError, match="rotation_seed"):
        decode_sum(np.zeros(ENCODING.words(), np.uint64), ENCODING, sites=1, rotation_seed=seed)


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"field_bits": 7}, "field_bits between 8 and 32"),
        ({"field_bits": 33}, "field_bits between 8 and 32"),
        ({"max_sites": 0}, "max_sites of at least 1"),
        ({"field_bits": 8, "max_sites": 65}, "field_bits of at least 9 for 65 sites"),
        ({"blocks": []}, "at least one block"),
        ({"blocks": [TREE["blocks"][0]] * 2}, "without repeats"),
        ({"blocks": [TREE["blocks"][1] | {"rotate": True}]}, "norm=l2"),
        ({"blocks": [TREE["blocks"][1] | {"clip": 0.0}]}, "clip between"),
        ({"blocks": [TREE["blocks"][1] | {"size": 0}]}, "size of at least 1"),
        ({"blocks": [TREE["blocks"][1] | {"name": ""}]}, "a block name"),
    ],
)
def test_an_encoding_that_could_wrap_is_not_built(change: dict[str, object], names: str) -> None:
    """Headroom and bounds are checked before the first value exists."""
    with pytest.raises(ConfigError, match=names):
        build(Encoding, TREE | change)


def test_errors_belong_to_the_tree() -> None:
    """Callers catch them by the package's own classes."""
    assert issubclass(EncodingError, PartsongError)
    assert issubclass(SumOutOfRange, RoundAborted)
