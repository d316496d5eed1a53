"""Steps by the median of groups' means."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from partsong.common.adapters.methods import ServerState, advance, server_step
from partsong.common.config import ServerOptimizerConfig
from partsong.common.groups import Groups
from partsong.common.plan import Plan

MakePlan = Callable[..., Plan]
GROUPS = Groups(sites=(("a", "d", "g"), ("b", "e", "h"), ("c", "f", "i")))
FIVE = Groups(sites=tuple(tuple(f"{name}{i}" for i in range(3)) for name in "abcde"))
MOMENTUM = ServerOptimizerConfig(name="fedavgm", momentum=0.5)


def start(plan: Plan) -> ServerState:
    """A state of zeros."""
    return ServerState(adapter_P=np.zeros(plan.layout.size(trained=True)))


def after(plan: Plan, means: dict[int, np.ndarray], state: ServerState | None = None) -> ServerState:
    """Take up the means of these rounds."""
    state = state or start(plan)
    for number, mean_P in means.items():
        state = advance(state, mean_P, plan, number=number)
    return state


def filled(plan: Plan, *values: float) -> dict[int, np.ndarray]:
    """A round for each value, with the same mean everywhere."""
    return {number: np.full(plan.layout.size(trained=True), value) for number, value in enumerate(values, start=1)}


@pytest.fixture
def plan(make_plan: MakePlan) -> Plan:
    """Two steps by the median of three."""
    return make_plan(rounds=6, groups=GROUPS, optimizer=MOMENTUM)


def test_a_step_by_hand(plan: Plan) -> None:
    """Nothing moves before the third group's sum; then by the middle one of 5, 1 and 2, and the momentum by it."""
    two = after(plan, filled(plan, 5.0, 1.0))
    three = after(plan, filled(plan, 5.0, 1.0, 2.0))

    assert not two.adapter_P.any()
    assert (three.adapter_P == 2.0).all()
    assert set(three.memory) == {"momentum"}
    assert (after(plan, filled(plan, 5.0, 1.0, 2.0, 1.0, 9.0, 3.0)).adapter_P == 2.0 + (0.5 * 2.0 + 3.0)).all()


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2**32 - 1), st.sampled_from([GROUPS, FIVE]))
def test_a_step_is_the_server_s_step_on_numpys_median(make_plan: MakePlan, seed: int, groups: Groups) -> None:
    """Coordinate by coordinate, bit by bit."""
    plan = make_plan(rounds=groups.count, groups=groups, optimizer=MOMENTUM)
    means = np.random.default_rng(seed).normal(size=(groups.count, plan.layout.size(trained=True)))

    found = after(plan, dict(enumerate(means, start=1)))

    expected = server_step(start(plan), np.median(means, axis=0), MOMENTUM)
    assert (found.adapter_P == expected.adapter_P).all()
    assert found.steps == 1


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2**32 - 1), st.floats(-1e9, 1e9), st.sets(st.integers(0, 4), min_size=1, max_size=2))
def test_a_minority_of_groups_moves_no_coordinate_beyond_the_others(
    make_plan: MakePlan, seed: int, bad: float, where: set[int]
) -> None:
    """Whatever one or two of five groups send; three of five own the median."""
    plan = make_plan(rounds=5, groups=FIVE)
    means = np.random.default_rng(seed).normal(size=(5, plan.layout.size(trained=True)))
    good = means[[place for place in range(5) if place not in where]]
    means[sorted(where)] = bad

    moved = after(plan, dict(enumerate(means, start=1))).adapter_P

    assert (good.min(axis=0) <= moved).all()
    assert (moved <= good.max(axis=0)).all()
    means[[0, 1, 2]] = 1e9
    assert (after(plan, dict(enumerate(means, start=1))).adapter_P == 1e9).all()


def test_a_step_that_lacks_a_group_is_not_taken_and_leaves_nothing_behind(plan: Plan) -> None:
    """Of two groups the median is the mean. What the lost step had does not come into the next one."""
    size = plan.layout.size(trained=True)
    poison, ones = np.full(size, 1e6), np.ones(size)

    for lost in (1, 2, 3):
        first = {number: poison for number in (1, 2, 3) if number != lost}
        between = after(plan, first)
        assert not between.adapter_P.any()
        assert (after(plan, {4: ones, 5: ones, 6: ones}, between).adapter_P == 1.0).all()
        # The second step lacks a group as well: what is kept of the first one does not fill its place.
        assert not after(plan, {4: ones, 6: ones}, between).adapter_P.any()
        assert not after(plan, {5: ones, 6: ones}, between).adapter_P.any()
