"""Plans with groups, from a configuration: how many rounds, who is in which, and what cannot be."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from partsong.common.adapters.adapter import AdapterLayout, TensorSpec
from partsong.common.config import (
    CohortConfig,
    DataConfig,
    ModelConfig,
    PrivacyConfig,
    SecureSumConfig,
    SimulationConfig,
)
from partsong.common.errors import ConfigError
from partsong.common.plan import Plan
from partsong.common.questions.settings import VoteConfig
from partsong.common.thresholds import Floors
from partsong.server.planning import Base, epsilon_after, make_plan

BASE = Base(
    sha256="b" * 64,
    lora={},
    layout=AdapterLayout(tensors=(TensorSpec(name="b", shape=(10, 10), trained=True),)),
)
NAMES = tuple(f"site-{i:02}" for i in range(18))
FLOORS = Floors(minimum_cohort=3, minimum_honest=3, corrupt_tolerance=3)


def planned(
    *, groups: int | None, names: tuple[str, ...] = NAMES, floors: Floors | None = None, **changes: Any
) -> Plan:
    config = SimulationConfig(
        model=ModelConfig(source="x"),
        data=DataConfig(),
        privacy=PrivacyConfig(epsilon=3.0, delta=1e-4),
        cohort=CohortConfig(groups=groups),
    )
    nothing = np.zeros(0, np.float32)
    return make_plan(
        dataclasses.replace(config, **changes), run="run-1", max_sites=len(names), base=BASE, labels=(),
        frozen_F=nothing, start_P=nothing, floors=floors, names=names,
    )  # fmt: skip


def test_a_grouped_plan_has_a_round_for_each_group_and_step_and_the_noise_of_as_many_steps() -> None:
    """Three times the rounds of a plan without groups; the same noise, epsilon and steps at a site."""
    bare, grouped = planned(groups=None), planned(groups=3, floors=FLOORS)

    assert grouped.groups is not None
    assert [len(group) for group in grouped.groups.sites] == [6, 6, 6]
    assert grouped.rounds == 3 * bare.rounds
    assert (grouped.dp, grouped.steps, grouped.queries) == (bare.dp, bare.steps, bare.rounds)
    assert epsilon_after(grouped, grouped.rounds) == epsilon_after(bare, bare.rounds)


@pytest.mark.parametrize(("count", "sites", "floors"), [(3, 17, FLOORS), (4, 18, FLOORS), (3, 8, None)])
def test_groups_too_small_for_a_sum_are_refused(count: int, sites: int, floors: Floors | None) -> None:
    """Under the floors of every sum: where three colluders are tolerated a sum has six sites."""
    with pytest.raises(ConfigError, match=f"cohort.groups: found {count} with {sites} sites"):
        planned(groups=count, names=NAMES[:sites], floors=floors)


def test_groups_of_a_run_with_a_committee_are_refused() -> None:
    """Its share holders would be in a group's roster in part only; without masks there are no shares."""
    many = tuple(f"site-{i:03}" for i in range(66))
    masked, clear = SecureSumConfig(), SecureSumConfig(mode="sum-only")

    with pytest.raises(ConfigError, match="a committee"):
        planned(groups=3, names=many, floors=FLOORS, secure_sum=masked)
    assert planned(groups=3, names=many, floors=FLOORS, secure_sum=clear).groups is not None
    assert planned(groups=3, names=many[:64], floors=FLOORS, secure_sum=masked).groups is not None


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"vote": VoteConfig(mode="holdout")}, "cohort.groups"),
        ({"measure_aggregation": True}, "measure_aggregation"),
    ],
    ids=["votes", "a look at the average"],
)
def test_what_groups_cannot_be_under_is_refused_by_name(change: dict[str, Any], key: str) -> None:
    """Before a plan is made."""
    with pytest.raises(ConfigError, match=key):
        planned(groups=3, **change)


def test_fewer_than_three_groups_are_no_setting() -> None:
    """The median of two is their mean."""
    with pytest.raises(ValueError, match="groups"):
        CohortConfig(groups=2)
