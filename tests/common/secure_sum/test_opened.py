"""What a sum says, and the names that a header gives to what is asked."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from partsong.common.adapters.adapter import digest
from partsong.common.plan import LOSS, UPDATE, Plan, rotation_seed
from partsong.common.secure_sum.fixed_point import SumOutOfRange, encode
from partsong.common.secure_sum.opened import encoding_hash, model_hash, query_hash, read_sum

MakePlan = Callable[..., Plan]


def words(plan: Plan, update_P: np.ndarray, loss: float, *, number: int, seed: int = 0) -> np.ndarray:
    """One site's words."""
    return encode(
        {UPDATE: update_P.astype(np.float32), LOSS: np.array([loss], np.float32)}, plan.encoding,
        rotation_seed=rotation_seed(plan.sha256, number=number), rng=np.random.default_rng(seed),
    )  # fmt: skip


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sites=st.integers(1, 5), number=st.integers(1, 3), seed=st.integers(0, 99))
def test_a_sum_says_the_mean_of_its_summands(make_plan: MakePlan, sites: int, number: int, seed: int) -> None:
    """Within a step of the encoding; the same bits for whoever reads it."""
    plan, rng = make_plan(), np.random.default_rng(seed)
    updates = rng.uniform(-1, 1, (sites, 8)).astype(np.float32)
    losses = rng.uniform(0, 8, sites)
    total_W = np.sum(
        [words(plan, u, loss, number=number, seed=i) for i, (u, loss) in enumerate(zip(updates, losses, strict=True))],
        axis=0, dtype=np.uint64,
    )  # fmt: skip

    opened = read_sum(total_W, plan, number=number, sites=sites)

    assert opened.mean_P == pytest.approx(updates.mean(axis=0), abs=1e-5)
    assert (opened.loss, opened.sites) == (pytest.approx(losses.mean(), abs=1e-5), sites)
    assert read_sum(total_W.copy(), plan, number=number, sites=sites).mean_P.tobytes() == opened.mean_P.tobytes()


def test_shares_weigh_the_mean_and_not_the_loss(make_plan: MakePlan) -> None:
    """Weights 1, 2 and 4 by hand: (1 * 1.4 + 2 * 0.7) / 7 where the third update is 0; the loss is a plain mean."""
    plan = make_plan()
    shares = (0.25, 0.5, 1.0)
    values = (1.4, 0.7, 0.0)
    total_W = np.sum(
        [words(plan, np.full(8, v * s), 3.0 * v, number=1) for v, s in zip(values, shares, strict=True)],
        axis=0, dtype=np.uint64,
    )  # fmt: skip

    opened = read_sum(total_W, plan, number=1, sites=3, shares=shares)

    assert opened.mean_P == pytest.approx(np.full(8, 2.8 / 7), abs=1e-5)
    assert opened.loss == pytest.approx(2.1, abs=1e-5)
    assert read_sum(total_W, plan, number=1, sites=3).mean_P != pytest.approx(opened.mean_P, abs=1e-2)


def test_the_number_of_the_round_and_of_the_summands_count(make_plan: MakePlan) -> None:
    """A control: read for another round, the mean is another; too few summands are found out."""
    plan = make_plan()
    total_W = 3 * words(plan, np.full(8, 1.4), 30.0, number=1)

    assert read_sum(total_W, plan, number=1, sites=3).mean_P == pytest.approx(np.full(8, 1.4), abs=1e-5)
    assert read_sum(total_W, plan, number=2, sites=3).mean_P != pytest.approx(np.full(8, 1.4), abs=1e-2)
    with pytest.raises(SumOutOfRange):
        read_sum(total_W, plan, number=1, sites=1)


def test_a_header_names_model_and_encoding_by_their_digests(make_plan: MakePlan) -> None:
    """32 bytes each; another field width is another encoding."""
    plan = make_plan()
    adapter_P = np.arange(8, dtype=np.float32)

    assert model_hash(digest(adapter_P)).hex() == digest(adapter_P)
    assert len(encoding_hash(plan, number=1)) == 32
    assert encoding_hash(plan, number=1) == encoding_hash(make_plan(run="another"), number=2)
    assert encoding_hash(plan, number=1) != encoding_hash(
        replace(plan, encoding=replace(plan.encoding, field_bits=16)), number=1
    )


@pytest.mark.parametrize(
    "change",
    [
        {"run": "x"},
        {"base_sha256": "c" * 64},
        {"rounds": 4},
        {"minimum_cohort": 4},
        {"max_length": 65},
        {"masked": True},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_query_s_name_covers_the_whole_plan_and_the_round(make_plan: MakePlan, change: dict[str, Any]) -> None:
    """Whatever decides about a vector decides about the name."""
    plan = make_plan()

    assert query_hash(plan, number=1) == query_hash(make_plan(), number=1)
    assert query_hash(plan, number=1) != query_hash(make_plan(**change), number=1)
    assert len({query_hash(plan, number=n) for n in (1, 2, 11)}) == 3
