"""What votes do to the global adapter, and what a plan with votes says of its rounds."""

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

from partsong.common.adapters.methods import ServerState, advance, asked_about
from partsong.common.adapters.turns import Turn
from partsong.common.config import ServerOptimizerConfig
from partsong.common.plan import Plan
from partsong.common.privacy.accounting import epsilon
from partsong.common.privacy.terms import DpPlan
from partsong.common.questions.vote import Vote

MakePlan = Callable[..., Plan]
MakeDp = Callable[..., DpPlan]
VOTE = Vote(most_votes=5, margin=0.0, scale=0.1, noise_multiplier=None)
FOR, AGAINST = np.array([0.25]), np.array([-0.25])


def start(plan: Plan) -> ServerState:
    """A state of zeros."""
    return ServerState(adapter_P=np.zeros(plan.layout.size(trained=True)))


def mean(plan: Plan, value: float) -> np.ndarray:
    """The same change of every parameter."""
    return np.full(plan.layout.size(trained=True), value)


@pytest.fixture
def plan(make_plan: MakePlan) -> Plan:
    """Two rounds of training with a vote on each, under a server optimizer that remembers."""
    return make_plan(rounds=4, vote=VOTE, optimizer=ServerOptimizerConfig(name="fedavgm", momentum=0.5))


def test_a_round_moves_nothing_before_it_is_voted_on(plan: Plan) -> None:
    """The adapter stays; what it may become goes out with the vote."""
    state = advance(start(plan), mean(plan, 2.0), plan, number=1)

    assert not state.adapter_P.any()
    before, after = np.split(asked_about(state, plan, number=2), 2)
    assert not before.any()
    assert (after == 2.0).all()


def test_a_vote_for_it_keeps_the_round_as_if_nobody_had_voted(plan: Plan, make_plan: MakePlan) -> None:
    """Adapter and memory of the optimizer are those of a run without votes."""
    bare, state = make_plan(rounds=2, optimizer=plan.optimizer), start(plan)
    expected = advance(advance(start(bare), mean(bare, 2.0), bare, number=1), mean(bare, 1.0), bare, number=2)

    for number, opened in ((1, mean(plan, 2.0)), (2, FOR), (3, mean(plan, 1.0)), (4, FOR)):
        state = advance(state, opened, plan, number=number)

    assert (state.adapter_P == expected.adapter_P).all()
    assert state.memory.keys() == expected.memory.keys()
    assert (state.memory["momentum"] == expected.memory["momentum"]).all()
    assert state.steps == expected.steps


def test_a_vote_against_it_leaves_no_trace_of_the_round(plan: Plan) -> None:
    """Neither in the adapter nor in the momentum, which would bring the poison back in the next round."""
    before = advance(advance(start(plan), mean(plan, 2.0), plan, number=1), FOR, plan, number=2)

    after = advance(advance(before, mean(plan, 1e6), plan, number=3), AGAINST, plan, number=4)

    assert (after.adapter_P == before.adapter_P).all()
    assert (after.memory["momentum"] == before.memory["momentum"]).all()
    assert after.steps == before.steps


def test_a_round_that_no_vote_was_about_is_dropped_by_the_next(plan: Plan) -> None:
    """As when too few sites voted: silence keeps nothing."""
    state = advance(start(plan), mean(plan, 1e6), plan, number=1)

    state = advance(advance(state, mean(plan, 1.0), plan, number=3), FOR, plan, number=4)

    assert (state.adapter_P == 1.0).all()


def test_a_vote_about_nothing_keeps_what_there_is(plan: Plan) -> None:
    """And no query for it can be written."""
    state = advance(start(plan), FOR, plan, number=2)

    assert not state.adapter_P.any()
    with pytest.raises(ValueError, match="a candidate"):
        asked_about(state, plan, number=2)


def test_turns_go_by_the_rounds_that_train(make_plan: MakePlan) -> None:
    """With votes between them B and A still take turns; by the plain number every round would train B."""
    turns = tuple(Turn(trains=part, learning_rate=1.0, clip_norm=1.0, update_clip=4.0) for part in ("B", "A"))
    layout = make_plan().layout
    both = dataclasses.replace(
        layout, tensors=tuple(dataclasses.replace(spec, trained=True) for spec in layout.tensors)
    )
    bare = make_plan(rounds=4, turns=turns, layout=both)
    voted = make_plan(rounds=8, turns=turns, layout=both, vote=VOTE)

    names = [turn.trains for number in (1, 3, 5, 7) if (turn := voted.turn(number)) is not None]

    assert names == ["B", "A", "B", "A"]
    assert voted.steps == bare.steps
    assert voted.sealed_bytes() == bare.sealed_bytes() + 4 * voted.encoding_of(2).bytes()


def test_a_vote_is_one_bounded_number(plan: Plan) -> None:
    """Its block is one that the length check looks at."""
    encoding = plan.encoding_of(2)

    assert (plan.update_size(2), plan.update_size(1)) == (1, plan.layout.size(trained=True))
    assert (encoding.blocks[0].norm, encoding.blocks[0].clip) == ("l2", 5.0)


def test_votes_cost_what_their_noise_costs(make_plan: MakePlan, make_dp: MakeDp) -> None:
    """Composed with the steps: more than these alone, less than both budgets together."""
    dp = make_dp(noise_multiplier=1.0)
    plan = make_plan(rounds=6, dp=dp, vote=dataclasses.replace(VOTE, noise_multiplier=4.0))
    steps, votes = plan.releases(first=1, last=6)

    together = epsilon([steps, votes], delta=dp.delta).epsilon

    assert (steps, votes.steps, votes.sampling_rate, votes.noise_multiplier) == (plan.events(steps=plan.steps), 3, 1, 4)
    apart = [epsilon([events], delta=dp.delta).epsilon for events in (steps, votes)]
    assert max(apart) < together < sum(apart)
    assert plan.releases(first=2, last=2) == (dataclasses.replace(votes, steps=1),)
    assert plan.releases(first=1, last=1) == (plan.events(steps=plan.training.steps_per_round),)


@pytest.mark.parametrize(
    "field", [{"rounds": 3}, {"vote": dataclasses.replace(VOTE, noise_multiplier=1.0)}, {"study": "canary"}]
)
def test_a_plan_whose_votes_do_not_fit_is_refused(make_plan: MakePlan, field: dict[str, object]) -> None:
    """A round without a vote, noise without differential privacy, votes on something else than training."""
    with pytest.raises(ValueError, match=r"votes"):
        make_plan(**({"rounds": 4, "vote": VOTE} | field))


def test_votes_without_noise_are_refused_under_differential_privacy(make_plan: MakePlan, make_dp: MakeDp) -> None:
    """An exact count of records would be a release that nobody accounts for."""
    with pytest.raises(ValueError, match="noise on votes"):
        make_plan(rounds=4, vote=VOTE, dp=make_dp())
