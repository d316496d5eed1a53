"""Sites of a simulated run: each on its own folder, with a ledger that holds the run's budget."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from partsong.client.dp.sampler import SeededRandomness, SystemRandomness
from partsong.client.site import Watch
from partsong.common.config import SimulationConfig
from partsong.common.plan import Plan
from partsong.common.privacy.terms import DpPlan
from partsong.simulations.prepare import prepare
from partsong.simulations.run_dir import RunDir
from partsong.simulations.sites import HOLDING, chance, make_site

Configure = Callable[..., SimulationConfig]


@pytest.mark.parametrize(
    ("overrides", "ceiling"),
    [(("privacy=none",), None), (("privacy=dp", "privacy.epsilon=3", "privacy.delta=1e-3", "seed=null"), 3.0)],
)
def test_a_ledger_allows_what_the_run_may_cost(
    configured: Configure, tmp_path: Path, overrides: tuple[str, ...], ceiling: float | None
) -> None:
    """Set once: a resumed run does not raise what an operator has lowered."""
    prepared, run = prepare(configured(*overrides)), RunDir(tmp_path)
    _, ledger = make_site("site-1", prepared, run, None, watch=Watch())
    assert ledger.holding(HOLDING).ceiling == ceiling
    ledger.set_ceiling(HOLDING, epsilon=1.0, delta=ledger.holding(HOLDING).delta)
    ledger.close()

    _, again = make_site("site-1", prepared, run, None, watch=Watch())

    assert again.holding(HOLDING).ceiling == 1.0
    assert not (run.site_folder("site-2") / "ledger.sqlite").exists()
    again.close()


def test_chance_is_the_system_s_unless_the_plan_is_a_test(
    make_plan: Callable[..., Plan], make_dp: Callable[..., DpPlan]
) -> None:
    """A seed repeats samples and rounding for one site and round; without one nothing is repeatable."""
    seeded, private = make_plan(seed=7), make_plan(dp=make_dp())

    def drawn(site: str, plan: Plan, number: int) -> bytes:
        return chance(site, plan, number).rounding.bytes(16)

    assert isinstance(chance("a", seeded, 1).samples, SeededRandomness)
    assert isinstance(chance("a", private, 1).samples, SystemRandomness)
    assert drawn("a", seeded, 1) == drawn("a", seeded, 1)
    assert (
        len({drawn("a", seeded, 1), drawn("a", seeded, 2), drawn("b", seeded, 1), drawn("a", make_plan(seed=8), 1)})
        == 4
    )
    assert drawn("a", private, 1) != drawn("a", private, 1)
    assert isinstance(chance("a", private, 1).rounding, np.random.Generator)
