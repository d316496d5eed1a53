"""The sum of sealed vectors."""

from collections.abc import Callable

import numpy as np
import pytest

from partsong.common import wire
from partsong.common.errors import WireError
from partsong.common.plan import LOSS, UPDATE, Plan, rotation_seed
from partsong.common.secure_sum.fixed_point import EncodingError, SumOutOfRange, encode
from partsong.server.aggregate import Accumulator

MakePlan = Callable[..., Plan]


def sealed(plan: Plan, seed: int) -> bytes:
    rng = np.random.default_rng(seed)
    blocks = {UPDATE: rng.standard_normal(8).astype(np.float32), LOSS: np.array([float(seed)], np.float32)}
    return wire.vector_bytes(encode(blocks, plan.encoding, rotation_seed=rotation_seed(plan.sha256, number=2), rng=rng))


def test_the_mean_is_over_those_that_were_added(make_plan: MakePlan) -> None:
    """Against numpy; the order of arrival does not matter to a single bit."""
    plan = make_plan()
    forwards, backwards = Accumulator(plan=plan, number=2), Accumulator(plan=plan, number=2)
    for seed in (1, 2, 3):
        forwards.add(sealed(plan, seed))
        backwards.add(sealed(plan, 4 - seed))

    opened, other = forwards.open(), backwards.open()

    expected = np.mean([np.random.default_rng(s).standard_normal(8) for s in (1, 2, 3)], axis=0)
    assert opened.mean_P == pytest.approx(expected, abs=1e-4)
    assert (opened.sites, opened.loss) == (3, pytest.approx(2.0, abs=1e-5))
    assert opened.mean_P.tobytes() == other.mean_P.tobytes()


@pytest.mark.parametrize("change", [-8, -1, 1, 8])
def test_words_of_another_length_change_nothing(make_plan: MakePlan, change: int) -> None:
    """The sum and its count are those from before."""
    plan = make_plan()
    total = Accumulator(plan=plan, number=2)
    total.add(sealed(plan, 1))
    before = total.open()
    data = sealed(plan, 2)
    wrong = data[:change] if change < 0 else data + bytes(change)

    with pytest.raises(WireError, match="vector"):
        total.add(wrong)

    assert total.sites == 1
    assert (total.open().mean_P == before.mean_P).all()


def test_words_out_of_range_are_no_sum(make_plan: MakePlan) -> None:
    """Found when the sum is opened."""
    plan = make_plan()
    total = Accumulator(plan=plan, number=2)
    total.add(b"\xff" * plan.encoding.bytes())

    with pytest.raises(SumOutOfRange):
        total.open()


def test_an_empty_sum_is_not_opened(make_plan: MakePlan) -> None:
    """There is no mean over nobody."""
    with pytest.raises(EncodingError):
        Accumulator(plan=make_plan(), number=2).open()
