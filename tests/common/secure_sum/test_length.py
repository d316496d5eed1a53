"""A sum that is longer than its summands' clips allow is refused; any sum inside them is not."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partsong.common.plan import LOSS, UPDATE, Plan, rotation_seed
from partsong.common.secure_sum.fixed_point import Block, Encoding, add_into, decode_sum, encode
from partsong.common.secure_sum.length import SumTooLong, require_short
from partsong.common.secure_sum.opened import read_sum

BLOCK = Block(name="update", size=40, clip=2.0, norm="l2", rotate=True)
SEED = bytes(32)


def total(vectors: list[np.ndarray], encoding: Encoding) -> np.ndarray:
    rng = np.random.default_rng(1)
    words = [encode({"update": v}, encoding, rotation_seed=SEED, rng=rng) for v in vectors]
    summed = words[0].copy()
    for more in words[1:]:
        add_into(summed, more)
    return decode_sum(summed, encoding, sites=len(vectors), rotation_seed=SEED)["update"]


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 6), st.integers(10, 24), st.integers(0, 1000), st.sampled_from(["one way", "any way"]))
def test_a_sum_of_clipped_vectors_is_always_accepted(sites: int, bits: int, seed: int, how: str) -> None:
    """Also where all of them point one way at full length, in the coarsest encoding."""
    encoding = Encoding(blocks=(BLOCK,), field_bits=bits, max_sites=6)
    rng = np.random.default_rng(seed)
    first = rng.standard_normal(40)
    vectors = [(first if how == "one way" else rng.standard_normal(40)) * 100 for _ in range(sites)]

    require_short(total(vectors, encoding), BLOCK, encoding, sites=sites)


def test_one_site_outside_its_clip_is_found() -> None:
    """It encodes with three times the clip; the others point the same way."""
    encoding = Encoding(blocks=(BLOCK,), field_bits=24, max_sites=3)
    direction = np.ones(40) / np.sqrt(40)
    sums = total([direction * 2.0, direction * 2.0], encoding) + direction * 6.0

    with pytest.raises(SumTooLong, match="longer than the clips of 3 sites"):
        require_short(sums, BLOCK, encoding, sites=3)


def test_an_excess_that_the_others_leave_room_for_is_not_found() -> None:
    """What the check cannot see, said as a test: three clips of one site among short vectors pass. A little more does not."""
    encoding = Encoding(blocks=(BLOCK,), field_bits=24, max_sites=3)
    direction = np.ones(40) / np.sqrt(40)

    require_short(direction * 5.9, BLOCK, encoding, sites=3)
    with pytest.raises(SumTooLong):
        require_short(direction * 6.1, BLOCK, encoding, sites=3)


def test_a_block_that_bounds_values_has_no_length() -> None:
    """A histogram may be as long as its counts make it; the same values of a clipped vector are too long."""
    block = Block(name="update", size=4, clip=1.0, norm="linf", rotate=False)
    clipped = Block(name="update", size=4, clip=1.0, norm="l2", rotate=False)

    require_short(np.full(4, 3.0), block, Encoding(blocks=(block,), field_bits=24, max_sites=3), sites=3)
    with pytest.raises(SumTooLong):
        require_short(np.full(4, 3.0), clipped, Encoding(blocks=(clipped,), field_bits=24, max_sites=3), sites=3)


def test_whoever_reads_the_sum_of_a_round_checks_it(make_plan: Callable[..., Plan]) -> None:
    """Words of one site that doubles every integer, which its fields hold: no update comes of them."""
    plan = make_plan()
    update, _ = plan.encoding.blocks
    seed, rng = rotation_seed(plan.sha256, number=1), np.random.default_rng(0)
    blocks = {UPDATE: np.full(8, 100.0), LOSS: np.zeros(1)}
    words = encode(blocks, plan.encoding, rotation_seed=seed, rng=rng)
    good = read_sum(words, plan, number=1, sites=1)
    assert np.linalg.norm(good.mean_P) == pytest.approx(update.clip, rel=1e-3)

    doubled = words.copy()
    top, bits = plan.encoding.top, plan.encoding.field_bits
    for place in range(plan.encoding.block_words(update)):
        fields = [(int(words[place]) >> (bits * i)) & ((1 << bits) - 1) for i in range(64 // bits)]
        moved = [min(max(2 * (field - top) + top, 0), 2 * top) for field in fields]
        doubled[place] = sum(field << (bits * i) for i, field in enumerate(moved))

    with pytest.raises(SumTooLong):
        read_sum(doubled, plan, number=1, sites=1)
