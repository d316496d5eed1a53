"""What a simulation measures of an average, with every update in view."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from partsong.common.adapters.adapter import AdapterLayout, TensorSpec
from partsong.common.adapters.methods import ServerState, advance
from partsong.common.adapters.turns import Turn
from partsong.common.plan import Plan
from partsong.simulations.in_the_clear import InTheClear, aggregation_lines

BOTH = AdapterLayout(
    tensors=(
        TensorSpec(name="q.lora_A.weight", shape=(2, 5), trained=True),
        TensorSpec(name="q.lora_B.weight", shape=(3, 2), trained=True),
    )
)
TURNS = tuple(Turn(trains=part, learning_rate=1.0, clip_norm=1.0, update_clip=1.0) for part in "BA")


def played(plan: Plan, *, rounds: int = 2) -> list[dict[str, Any]]:
    """Rounds of three sites that move at random, and what is written down of them."""
    rng = np.random.default_rng(0)
    start_P = rng.standard_normal(16).astype(np.float32)
    clear = InTheClear(plan, start_P=start_P, frozen_F=np.zeros(0, np.float32))
    state, history = ServerState(adapter_P=start_P.astype(np.float64)), []
    for number in range(1, rounds + 1):
        updates = rng.standard_normal((3, plan.update_size(number))).astype(np.float32)
        for site, update_P in zip("abc", updates, strict=True):
            clear.note(site, number, update_P)
        state = advance(state, updates.mean(0, dtype=np.float64), plan, number=number)
        found = clear.measure(number, state.adapter_P.astype(np.float32), sites=("a", "b", "c"))
        history.append({"round": number} | found)
    return history


@pytest.mark.parametrize(("turns", "exact"), [(TURNS, True), ((), False)], ids=["rolora", "fedit"])
def test_each_round_is_measured_layer_by_layer(
    make_plan: Callable[..., Plan], turns: tuple[Turn, ...], *, exact: bool
) -> None:
    """One factor at a time loses nothing; both at once lose what two averages lose, and the best of the rank less."""
    plan = make_plan(method="rolora" if turns else "fedit", layout=BOTH, turns=turns)

    history = played(plan)

    for entry in history:
        (error,) = entry["aggregation_error"]
        assert error["layer"] == "q"
        assert (error["ours"] < 1e-6) == exact
        assert error["ours"] == pytest.approx(error["fedit"], abs=1e-6)
        assert error["best"] <= error["fedit"] + 1e-6
    assert aggregation_lines(history)[0].startswith("what the average of round 2 lost")
    assert len(aggregation_lines(history)) == 2


def test_a_round_whose_sum_is_not_all_that_was_seen_is_left_out(make_plan: Callable[..., Plan]) -> None:
    """Without the updates of its sum, or without its start, nothing is claimed."""
    plan = make_plan(method="fedit", layout=BOTH)
    clear = InTheClear(plan, start_P=np.ones(16, np.float32), frozen_F=np.zeros(0, np.float32))
    clear.note("a", 1, np.ones(16, np.float32))

    assert clear.measure(1, np.ones(16, np.float32), sites=("a", "b")) == {}
    assert clear.measure(3, np.ones(16, np.float32), sites=("a",)) == {}
    assert clear.measure(4, np.ones(16, np.float32), sites=()) == {}
    assert aggregation_lines([{"round": 1}]) == []
