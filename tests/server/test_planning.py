"""From a configuration to privacy terms: the noise keeps the budget, whatever the unit and kind of noise."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from partsong.common.adapters.adapter import AdapterLayout, TensorSpec
from partsong.common.config import DataConfig, ModelConfig, PrivacyConfig, SimulationConfig
from partsong.common.errors import ConfigError
from partsong.common.plan import Plan
from partsong.common.privacy.accounting import epsilon
from partsong.server.planning import Base, epsilon_after, make_plan

BASE = Base(
    sha256="b" * 64,
    lora={},
    layout=AdapterLayout(tensors=(TensorSpec(name="b", shape=(1000, 1000), trained=True),)),
)


def planned(base: Base = BASE, **privacy: Any) -> Plan:
    config = SimulationConfig(
        model=ModelConfig(source="x"),
        data=DataConfig(unit_field="patient"),
        privacy=PrivacyConfig(**{"epsilon": 3.0, "delta": 1e-4} | privacy),
    )
    nothing = np.zeros(0, np.float32)
    return make_plan(config, run="run-1", max_sites=5, base=base, labels=(), frozen_F=nothing, start_P=nothing)


@pytest.mark.parametrize("noise", ["gaussian", "discrete"])
@pytest.mark.parametrize("unit", ["record", "patient"])
def test_the_planned_noise_keeps_the_budget_and_uses_it(unit: str, noise: str) -> None:
    """Epsilon after all rounds is at most what was asked for, and within a thousandth of it."""
    plan = planned(unit=unit, noise=noise)

    spent = epsilon_after(plan, plan.rounds)

    assert plan.dp is not None
    assert (plan.dp.unit, plan.dp.noise) == (unit, noise)
    assert plan.dp.contribution_bound == (4 if unit == "patient" else None)
    assert 3.0 * 0.999 < spent <= 3.0


def test_discrete_noise_is_planned_larger_by_what_its_rounding_costs() -> None:
    """Without the widening it would exceed the budget: the control."""
    smooth, rough = planned().dp, planned(noise="discrete").dp
    steps, size = planned().steps, 10**6

    narrow = dataclasses.replace(smooth, noise="discrete").events(steps=steps, size=size)

    assert rough.noise_multiplier > smooth.noise_multiplier
    assert rough.events(steps=steps, size=size).noise_multiplier == pytest.approx(
        smooth.events(steps=steps, size=size).noise_multiplier, rel=1e-12
    )
    assert epsilon([narrow], delta=1e-4).epsilon > epsilon([smooth.events(steps=steps, size=size)], delta=1e-4).epsilon


def test_noise_that_no_grid_can_give_is_the_users_to_mend() -> None:
    """So many values that their rounding alone would spend the budget."""
    shapes = tuple(TensorSpec(name=f"b{i}", shape=(1_000_000, 1000), trained=True) for i in range(500))
    huge = dataclasses.replace(BASE, layout=AdapterLayout(tensors=shapes))

    with pytest.raises(ConfigError, match=r"privacy\.noise: found discrete, expected gaussian"):
        planned(huge, noise="discrete", epsilon=0.05)


def test_two_sites_cost_more_than_one_and_less_than_twice() -> None:
    """A patient whom two sites hold: composition, not a sum of epsilons."""
    plan = planned(unit="patient")

    one, two = epsilon_after(plan, plan.rounds), epsilon_after(plan, plan.rounds, sites=2)

    assert one < two < 2 * one
    assert two == epsilon_after(plan, 2 * plan.rounds)
    assert epsilon_after(plan, 0, sites=2) == 0.0
