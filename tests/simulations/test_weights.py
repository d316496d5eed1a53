"""Weights of the charter: every site, the coordinator and whoever verifies come to the same weighted mean."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from partsong.common.errors import ConfigError
from partsong.common.plan import UPDATE, Plan
from partsong.simulations.federation import Result
from partsong.simulations.simulate import simulate
from partsong.simulations.verify.run import verify

Play = Callable[..., Result]


def _step(plan: Plan) -> float:
    block = next(b for b in plan.encoding.blocks if b.name == UPDATE)
    return plan.encoding.step(block) * float(np.sqrt(block.coordinates))


def test_the_adapter_is_the_weighted_mean_of_what_the_sites_trained(play: Play) -> None:
    """Solved from runs that weigh one site at a time: the mean with weights (1, 1, 4) follows from three others."""
    one_round = ("rounds=1",)
    plain = play(*one_round).trained_P.astype(np.float64)
    heavy = [play(*one_round, f"secure_sum.weights={w}").trained_P for w in ([100, 1, 1], [1, 100, 1], [1, 1, 4])]
    a, b, mixed = (x.astype(np.float64) for x in heavy)

    # With s the sum of the three adapters: 102 a = 99 x + s, 102 b = 99 y + s, and z is what is left of s.
    s = 3 * plain
    x, y = (102 * a - s) / 99, (102 * b - s) / 99
    z = s - x - y

    plan = play(*one_round, "secure_sum.weights=[1,1,4]").plan
    assert np.linalg.norm(mixed - (x + y + 4 * z) / 6) < 6 * _step(plan)
    assert np.linalg.norm(mixed - plain) > 20 * _step(plan)


def test_equal_weights_are_no_weights(play: Play) -> None:
    """Bit for bit the same adapter."""
    assert play("secure_sum.weights=[7,7,7]").trained_P.tobytes() == play().trained_P.tobytes()


def test_every_site_and_verify_agree_with_a_weighted_run(configured: Callable[..., object]) -> None:
    """Each site signs that the published adapter follows from the sums, and so does the offline recomputation."""
    done = simulate(configured("secure_sum.weights=[1,2,3]"), console=Console(quiet=True))  # type: ignore[arg-type]

    assert done.result.secure_sum is not None
    assert done.result.secure_sum.checked_by == ("site-1", "site-2", "site-3")
    assert not verify(Path(done.run.path)).wrong


@pytest.mark.parametrize("weights", ["[1,2]", "[1,2,3,4]"])
def test_a_weight_is_missing_or_too_many(play: Play, weights: str) -> None:
    """Refused before a charter is made."""
    with pytest.raises(ConfigError, match="one for each of 3 sites"):
        play(f"secure_sum.weights={weights}")
