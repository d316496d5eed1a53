"""Which tensors a round trains, and their coordinates."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from partsong.common.adapters.adapter import AdapterLayout, TensorSpec
from partsong.common.adapters.turns import Turn, gather, replaced, specs_of
from partsong.common.plan import LOSS, UPDATE, Plan

MakePlan = Callable[..., Plan]


def turn(trains: str, **changes: float) -> Turn:
    """A turn with these changes."""
    return Turn(trains=trains, **{"learning_rate": 1.0, "clip_norm": 1.0, "update_clip": 4.0} | changes)


def layout(*names: str, size: int = 2) -> AdapterLayout:
    """Trained vectors of these names."""
    return AdapterLayout(tensors=tuple(TensorSpec(name=n, shape=(size,), trained=True) for n in names))


BOTH = layout("q.lora_A.weight", "q.lora_B.weight", "score.weight")
BLOCKS = layout("q.lora_B.blocks.0.weight", "q.lora_B.blocks.1.weight", "q.lora_B.blocks.10.weight", "score.weight")


@pytest.mark.parametrize(
    ("of", "trains", "places"),
    [(BOTH, "A", [0]), (BOTH, "B", [1, 2]), (BLOCKS, "B.0", [0, 3]), (BLOCKS, "B.1", [1, 3]), (BLOCKS, "B", [0, 1, 2, 3])],
)  # fmt: skip
def test_a_turn_takes_its_factor_and_a_head_goes_with_b(of: AdapterLayout, trains: str, places: list[int]) -> None:
    """Worked by hand; block 1 is not block 10."""
    assert specs_of(of, turn(trains)) == tuple(of.trained[place] for place in places)
    assert specs_of(of, None) == of.trained


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["A", "B"]))
def test_only_the_turns_coordinates_are_replaced(seed: int, trains: str) -> None:
    """What was taken out can be put back, and the rest keeps its bits."""
    rng = np.random.default_rng(seed)
    before_P, now = rng.standard_normal(6), turn(trains)
    other = turn("B" if trains == "A" else "A")
    part_Q = rng.standard_normal(gather(before_P, BOTH, now).size)

    after_P = replaced(before_P, part_Q, BOTH, now)

    assert (gather(after_P, BOTH, now) == part_Q).all()
    assert (gather(after_P, BOTH, other) == gather(before_P, BOTH, other)).all()
    assert (replaced(before_P, after_P, BOTH, None) == after_P).all()


@pytest.mark.parametrize(
    "wrong", [{"trains": "C"}, {"trains": "B.01"}, {"trains": "B."}, {"trains": "A", "clip_norm": 0.0}]
)
def test_a_turn_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    """Names have one spelling, factors are positive."""
    with pytest.raises(ValueError, match=r"trains|above 0"):
        turn(**wrong)


def two_turns(make_plan: MakePlan, **changes: Any) -> Plan:
    tensors = (
        TensorSpec(name="q.lora_A.weight", shape=(2, 3), trained=True),
        TensorSpec(name="q.lora_B.weight", shape=(4, 2), trained=True),
    )
    turns = (turn("B", update_clip=5.0), turn("A", update_clip=0.5))
    return make_plan(layout=AdapterLayout(tensors=tensors), turns=turns, **changes)


def test_rounds_take_their_turns_and_each_kind_has_its_own_shape(make_plan: MakePlan) -> None:
    """B, A, B, A with one round each; B, B, A, A, B with two."""
    plan = two_turns(make_plan, rounds=5)
    slow = two_turns(make_plan, rounds=5, rounds_per_turn=2)

    assert [t.trains for n in range(1, 6) if (t := plan.turn(n))] == list("BABAB")
    assert [t.trains for n in range(1, 6) if (t := slow.turn(n))] == list("BBAAB")
    assert [plan.update_size(n) for n in (1, 2)] == [8, 6]
    blocks = {b.name: (b.size, b.clip) for b in plan.encoding_of(2).blocks}
    assert blocks == {UPDATE: (6, 0.5), LOSS: (1, 32.0)}


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rounds=st.integers(1, 60), each=st.integers(1, 9))
def test_the_bytes_of_a_plan_are_those_of_its_rounds(make_plan: MakePlan, rounds: int, each: int) -> None:
    """Counted by turns, they are the sum that counting round by round gives."""
    plan = two_turns(make_plan, rounds=rounds, rounds_per_turn=each)

    assert plan.sealed_bytes() == sum(plan.encoding_of(n).bytes() for n in range(1, rounds + 1))


def test_a_turn_without_a_tensor_is_no_plan(make_plan: MakePlan) -> None:
    """The usual plan trains B alone, so a round of A would seal nothing."""
    assert make_plan(turns=(turn("B"),)).update_size(1) == 8

    with pytest.raises(ValueError, match="at least one tensor"):
        make_plan(turns=(turn("A"),))
