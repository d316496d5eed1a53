"""The only door out of a site."""

from collections.abc import Callable

import numpy as np
import pytest

from partsong.client.seal import seal
from partsong.common.errors import Refused
from partsong.common.plan import LOSS, UPDATE, Plan, rotation_seed
from partsong.common.privacy.terms import DpPlan
from partsong.common.secure_sum.fixed_point import EncodingError, NotFinite, decode_sum

MakePlan = Callable[..., Plan]
MakeDp = Callable[..., DpPlan]


def blocks(seed: int = 0) -> dict[str, np.ndarray]:
    """An update and a loss."""
    rng = np.random.default_rng(seed)
    return {UPDATE: rng.standard_normal(8).astype(np.float32), LOSS: np.array([1.5], np.float32)}


def test_sealed_vectors_add_up_to_the_sum(make_plan: MakePlan) -> None:
    """Three sites, sealed each with its own rounding, opened only as a sum."""
    plan, rng = make_plan(), np.random.default_rng(1)
    total = sum(seal(blocks(i), plan, number=2, rng=rng) for i in range(3))

    sums = decode_sum(np.asarray(total), plan.encoding, sites=3, rotation_seed=rotation_seed(plan.sha256, number=2))

    assert sums[UPDATE] == pytest.approx(sum(blocks(i)[UPDATE] for i in range(3)), abs=1e-5)
    assert sums[LOSS] == pytest.approx([4.5], abs=1e-5)


def test_another_round_is_another_rotation(make_plan: MakePlan) -> None:
    """Opened with the seed of another round, the sum is something else."""
    plan = make_plan()
    words = seal(blocks(), plan, number=2, rng=np.random.default_rng(1))

    other = decode_sum(words, plan.encoding, sites=1, rotation_seed=rotation_seed(plan.sha256, number=3))

    assert np.abs(other[UPDATE] - blocks()[UPDATE]).max() > 0.1


def test_a_block_without_an_event_is_refused_under_privacy(make_plan: MakePlan, make_dp: MakeDp) -> None:
    """By rule and name; without privacy the encoding alone decides what it holds."""
    loose = {**blocks(), "histogram": np.zeros(3, np.float32)}

    with pytest.raises(Refused, match=r"unaccounted_release.*'histogram'"):
        seal(loose, make_plan(dp=make_dp()), number=1, rng=np.random.default_rng())
    with pytest.raises(EncodingError, match="histogram"):
        seal(loose, make_plan(), number=1, rng=np.random.default_rng())


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nothing_that_is_not_finite_leaves(make_plan: MakePlan, bad: float) -> None:
    """The error names the block and neither value nor place."""
    values = blocks()
    values[UPDATE][3] = bad

    with pytest.raises(NotFinite, match=r"^block update: found a value that is not finite, expected finite values$"):
        seal(values, make_plan(), number=1, rng=np.random.default_rng())


def test_an_update_beyond_the_clip_is_shortened(make_plan: MakePlan) -> None:
    """Its direction stays; no site can pull the sum further than the plan allows."""
    plan, values = make_plan(), blocks()
    values[UPDATE] *= 100

    words = seal(values, plan, number=1, rng=np.random.default_rng(1))

    seed = rotation_seed(plan.sha256, number=1)
    opened = decode_sum(words, plan.encoding, sites=1, rotation_seed=seed)[UPDATE]
    assert np.linalg.norm(opened) == pytest.approx(4.0, rel=1e-4)
    assert opened / 4 == pytest.approx(values[UPDATE] / np.linalg.norm(values[UPDATE]), abs=1e-4)
