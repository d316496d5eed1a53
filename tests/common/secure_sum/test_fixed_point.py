"""Values to words and back: exact sums, a bound that holds and is tight, and nothing that wraps."""

import hashlib
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from partsong.common.build import build, sha256_of, to_tree
from partsong.common.secure_sum.fixed_point import (
    Block,
    Encoding,
    EncodingError,
    add_into,
    decode_sum,
    encode,
)
from partsong.common.secure_sum.rotation import padded_shape, rotate_back

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


@st.composite
def encodings(draw: st.DrawFn) -> Encoding:
    field_bits = draw(st.integers(8, 32))
    max_sites = draw(st.integers(1, min(70, 2 ** (field_bits - 2))))
    blocks = []
    for number in range(draw(st.integers(1, 3))):
        norm = draw(st.sampled_from(["l2", "linf"]))
        rotate = norm == "l2" and draw(st.booleans())
        size, clip = draw(st.integers(1, 200)), draw(st.floats(1e-6, 1e6))
        blocks.append(Block(name=f"b{number}", size=size, clip=clip, norm=norm, rotate=rotate))
    return Encoding(blocks=tuple(blocks), field_bits=field_bits, max_sites=max_sites)


def draw_values(encoding: Encoding, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Values of very different sizes, some far above the clip."""
    return {
        b.name: (rng.standard_normal(b.size) * b.clip * 10 ** rng.uniform(-4, 2)).astype(
            rng.choice([np.float32, np.float64])
        )
        for b in encoding.blocks
    }


def clipped(values: np.ndarray, block: Block) -> np.ndarray:
    wide = values.astype(np.float64)
    if block.norm == "linf":
        return np.clip(wide, -block.clip, block.clip)
    return wide * min(1.0, block.clip / max(np.linalg.norm(wide), 1e-300))


def fields(words: np.ndarray, encoding: Encoding, block: Block) -> list[int]:
    """The integers of the one block of `encoding`, read with Python's own numbers."""
    per_word, mask = 64 // encoding.field_bits, 2**encoding.field_bits - 1
    found = [int(w) >> (field * encoding.field_bits) & mask for w in words for field in range(per_word)]
    return found[: block.coordinates]


def total_of(parts: list[np.ndarray], encoding: Encoding) -> np.ndarray:
    total = np.zeros(encoding.words(), np.uint64)
    for part in parts:
        add_into(total, part)
    return total


def test_a_small_sum_by_hand() -> None:
    """Three sites, two counts each: 1/2 and -1 of a clip of 1 are 1/2 and -1 again."""
    encoding = single(size=2, field_bits=16, max_sites=3, rotate=False)
    step = 1 / (2**13 - 1)
    assert encoding.value_bits == 14
    assert encoding.words() == 1
    parts = [
        encode({"x": np.array([0.5, -1.0])}, encoding, rotation_seed=SEED, rng=np.random.default_rng(i))
        for i in range(3)
    ]

    back = decode_sum(total_of(parts, encoding), encoding, sites=3, rotation_seed=SEED)["x"]

    assert back[1] == pytest.approx(-3.0)
    assert abs(back[0] - 1.5) < 3 * step


@settings(max_examples=60, deadline=None)
@given(encodings(), st.data(), st.integers(0, 2**32 - 1))
def test_the_sum_of_words_holds_the_exact_sum_of_integers(encoding: Encoding, data: st.DataObject, seed: int) -> None:
    """For any widths, sizes and number of sites, fields add up as integers do and stay in their place."""
    sites = data.draw(st.integers(1, encoding.max_sites))
    rng = np.random.default_rng(seed)
    parts = [encode(draw_values(encoding, rng), encoding, rotation_seed=SEED, rng=rng) for _ in range(sites)]

    total = total_of(parts, encoding)

    for block, place in encoding.slices():
        each = [fields(part[place], encoding, block) for part in parts]
        assert fields(total[place], encoding, block) == [sum(column) for column in zip(*each, strict=True)]
        assert all(0 <= field <= 2 * encoding.top for one in each for field in one)


@settings(max_examples=80, deadline=None)
@given(encodings(), st.data(), st.integers(0, 2**32 - 1))
def test_the_decoded_sum_meets_the_bound(encoding: Encoding, data: st.DataObject, seed: int) -> None:
    """Each block is within the documented distance of the plain sum of clipped values."""
    sites = data.draw(st.integers(1, min(8, encoding.max_sites)))
    rng = np.random.default_rng(seed)
    inputs = [draw_values(encoding, rng) for _ in range(sites)]
    parts = [encode(values, encoding, rotation_seed=SEED, rng=rng) for values in inputs]

    back = decode_sum(total_of(parts, encoding), encoding, sites=sites, rotation_seed=SEED)

    for block in encoding.blocks:
        error = back[block.name] - sum(clipped(values[block.name], block) for values in inputs)
        bound = 1.01 * sites * encoding.step(block)
        if block.rotate:
            assert np.linalg.norm(error) <= bound * math.sqrt(block.coordinates)
        else:
            assert np.abs(error).max() <= bound


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_half_the_bound_is_broken(norm: str) -> None:
    """Some input errs by more than half of what is promised, so the bound says something."""
    encoding = single(size=1, field_bits=8, max_sites=1, rotate=norm == "l2")
    value = np.array([0.1 / encoding.top])

    worst = max(
        abs(decode_sum(words, encoding, sites=1, rotation_seed=SEED)["x"][0] - value[0])
        for words in (
            encode({"x": value}, encoding, rotation_seed=SEED, rng=np.random.default_rng(i)) for i in range(100)
        )
    )

    assert 0.5 * encoding.step(encoding.blocks[0]) < worst < encoding.step(encoding.blocks[0])


@pytest.mark.parametrize("field_bits", [16, 21, 32])
def test_the_root_mean_square_error_is_what_is_documented(field_bits: int) -> None:
    """A long rotated vector errs by at most sqrt(S) * 3 * clip / Q in L2, and by more than a third of it."""
    encoding = single(size=20_000, field_bits=field_bits, max_sites=100, rotate=True, clip=3.0)
    rng = np.random.default_rng(0)
    inputs = [rng.standard_t(4, 20_000).astype(np.float32) for _ in range(4)]
    parts = [encode({"x": x}, encoding, rotation_seed=SEED, rng=rng) for x in inputs]

    back = decode_sum(total_of(parts, encoding), encoding, sites=4, rotation_seed=SEED)["x"]

    error = np.linalg.norm(back - sum(clipped(x, encoding.blocks[0]) for x in inputs))
    documented = math.sqrt(4) * 3 * 3.0 / encoding.top
    assert documented / 3 < error < documented


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.5, 0.9])
def test_rounding_has_no_bias(fraction: float) -> None:
    """The mean of many roundings is the value: within five standard errors, and a tenth of a step would show."""
    size = 40_000
    encoding = single(size=size, field_bits=12, max_sites=1, rotate=False)
    step = encoding.step(encoding.blocks[0])
    values = np.full(size, (7 + fraction) * step)

    words = encode({"x": values}, encoding, rotation_seed=SEED, rng=np.random.default_rng(1))
    mean = decode_sum(words, encoding, sites=1, rotation_seed=SEED)["x"].mean() / step

    five_standard_errors = 5 * 0.5 / math.sqrt(size)
    assert five_standard_errors < 0.1
    assert abs(mean - (7 + fraction)) < five_standard_errors


@given(st.integers(8, 32), st.integers(1, 300), st.sampled_from([1e300, -1e300, 1.0, -1.0]))
@settings(deadline=None)
def test_the_most_extreme_sites_do_not_wrap(field_bits: int, sites: int, value: float) -> None:
    """All sites at the same end of the range add up to exactly `sites` clips, and no field overflows."""
    assume(sites <= 2 ** (field_bits - 2))
    encoding = single(size=7, field_bits=field_bits, max_sites=sites, rotate=False)
    part = encode({"x": np.full(7, value)}, encoding, rotation_seed=SEED, rng=np.random.default_rng(0))

    back = decode_sum(total_of([part] * sites, encoding), encoding, sites=sites, rotation_seed=SEED)["x"]

    assert back == pytest.approx(np.full(7, math.copysign(sites, value)))


def test_one_site_more_than_the_headroom_would_wrap() -> None:
    """Without the bound on sites a field would run into its neighbour: the control."""
    encoding = single(size=4, field_bits=16, max_sites=4, rotate=False)
    part = encode({"x": np.full(4, 1.0)}, encoding, rotation_seed=SEED, rng=np.random.default_rng(0))

    total = total_of([part] * 5, encoding)

    assert fields(total, encoding, encoding.blocks[0])[0] != 5 * 2 * encoding.top
    with pytest.raises(EncodingError, match="expected 1 to 4"):
        decode_sum(total, encoding, sites=5, rotation_seed=SEED)


def test_the_values_stay_and_the_words_depend_on_them_and_the_generator_alone() -> None:
    """Encoding changes nothing it was given and repeats itself with the same generator."""
    rng = np.random.default_rng(5)
    values = {"update": rng.standard_normal(300), "metrics": rng.standard_normal(3)}
    before = {name: x.copy() for name, x in values.items()}

    one, two, other = (encode(values, ENCODING, rotation_seed=SEED, rng=np.random.default_rng(s)) for s in (9, 9, 10))

    assert (one == two).all()
    assert (one != other).any()
    assert all((values[name] == before[name]).all() for name in values)


def test_an_update_of_zeros_is_zero() -> None:
    """Nothing to clip, nothing to rotate, no division by its length."""
    words = encode(
        {"update": np.zeros(300), "metrics": np.zeros(3)}, ENCODING, rotation_seed=SEED, rng=np.random.default_rng(0)
    )

    back = decode_sum(words, ENCODING, sites=1, rotation_seed=SEED)

    assert not back["update"].any()
    assert not back["metrics"].any()


def test_another_seed_does_not_decode() -> None:
    """Sites have to agree on the seed: with another one the update comes out unrelated."""
    values = {"update": np.linspace(-1, 1, 300), "metrics": np.zeros(3)}
    words = encode(values, ENCODING, rotation_seed=SEED, rng=np.random.default_rng(0))

    wrong = decode_sum(words, ENCODING, sites=1, rotation_seed=bytes(32))["update"]

    assert abs(np.corrcoef(wrong, values["update"])[0, 1]) < 0.3


def test_the_encoding_goes_through_plain_data_and_has_a_hash() -> None:
    """It can stand in a plan: tree and back, equal hashes for equal encodings only."""
    assert build(Encoding, to_tree(ENCODING)) == ENCODING
    assert sha256_of(ENCODING) == sha256_of(build(Encoding, TREE))
    assert sha256_of(ENCODING) != sha256_of(replace(ENCODING, max_sites=6))


@pytest.mark.parametrize(("field_bits", "most_bytes"), [(21, 2.7), (16, 2.02), (32, 4.02)])
def test_a_million_parameters_cost_what_their_fields_cost(field_bits: int, most_bytes: float) -> None:
    """Padding adds next to nothing to 8 / (64 // field_bits) bytes per parameter."""
    encoding = single(size=1_000_000, field_bits=field_bits, max_sites=64, rotate=True)

    assert 8 / (64 // field_bits) <= encoding.bytes() / 1_000_000 < most_bytes


@pytest.mark.parametrize("sign", [1, -1])
def test_a_coordinate_beyond_its_range_is_cut_and_harms_no_other(sign: int) -> None:
    """A vector made to rotate onto one axis loses that coordinate's excess; fields stay in range."""
    encoding = single(size=256, field_bits=16, max_sites=4, rotate=True)
    block = encoding.blocks[0]
    shape = padded_shape(256)
    values = np.zeros(256)
    values[7] = sign
    rotate_back(values, shape=shape, seed=hashlib.sha256(b"partsong/1 rotation of block" + SEED + b"x").digest())

    words = encode({"x": values}, encoding, rotation_seed=SEED, rng=np.random.default_rng(0))
    back = decode_sum(words, encoding, sites=1, rotation_seed=SEED)["x"]

    assert shape == (32, 8)
    assert max(fields(words, encoding, block)) <= 2 * encoding.top
    excess = 1 - block.value_range
    assert np.linalg.norm(back - values) == pytest.approx(excess, abs=encoding.step(block) * 16)


class AlmostOne(np.random.Generator):
    """Always draws the largest number below one."""

    def random(self, size: int, dtype: type) -> np.ndarray:
        return np.full(size, 1 - 2**-24, dtype)


def test_the_largest_value_and_the_largest_draw_stay_in_the_field() -> None:
    """Where 2Q plus a fraction rounds up in float64, the field still ends at 2Q."""
    encoding = single(size=2, field_bits=32, max_sites=1, rotate=False)

    words = encode({"x": np.ones(2)}, encoding, rotation_seed=SEED, rng=AlmostOne(np.random.PCG64(0)))

    assert fields(words, encoding, encoding.blocks[0]) == [2 * encoding.top] * 2
