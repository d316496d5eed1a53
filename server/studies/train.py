"""The training study: round after round, one global adapter.

It asks a function, so it runs over any transport and under test without one. Of a large adapter it holds no vector
longer than a step needs it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from partsong.common.adapters.medians import can_be_taken
from partsong.common.adapters.methods import ServerState, advance, asked_about
from partsong.common.plan import Plan
from partsong.common.secure_sum.opened import Opened
from partsong.server.ballots import Ballot, ballot_of
from partsong.server.desk import Outcome, Query
from partsong.server.rounds import Round


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """What a round did to the global adapter."""

    ended: Round
    """How the round ended."""
    loss: float | None
    """Mean released loss; None: the round was aborted."""
    bytes_out: dict[str, int]
    """Bytes that left each site whose report is in the sum."""
    state: ServerState
    """After the round; unchanged where the round was aborted."""
    update_norm: float
    """L2 norm of the mean update; 0 where there is none, or an answer in its place."""

    answer: Opened | None = None
    """The sum of a round that asked a question; of any other it is not kept."""
    ballot: Ballot | None = None
    """What a vote has decided; None of any other round."""

    @property
    def round(self) -> int:
        """Number of the round."""
        return self.ended.number


def train(
    state: ServerState,
    plan: Plan,
    *,
    first: int,
    attempts: Mapping[int, int],
    spend_attempts: bool,
    ask: Callable[[Query], Outcome],
    keep: Callable[[Step], None],
) -> ServerState:
    """Ask for the plan's rounds of training, starting with number `first`; return the last state.

    Args:
        state: the adapter to start from.
        plan: of the run: how many rounds, and what is done with a mean update.
        first: number of the first round asked here; above 1 after a resume.
        attempts: how often each round was opened before.
        spend_attempts: whether an opened round that never finished counts as done. True under differential
            privacy: its records were read and its budget is gone, so it is not asked again.
        ask: carries out a round.
        keep: told each step, before the next query; saves it.
    """
    for number in range(first, plan.rounds + 1):
        before = attempts.get(number, 0)
        if before and spend_attempts:
            continue
        if plan.is_vote(number) and state.candidate is None:
            continue  # the round had no sum, so there is nothing to vote on
        if plan.groups is not None and not can_be_taken(state.memory, plan.groups, number=number):
            continue  # a group of this step has no sum, so the others would pay for nothing
        adapter_P = asked_about(state, plan, number=number)
        outcome = ask(Query(round=number, attempt=before + 1, adapter_P=adapter_P))
        del adapter_P
        step = step_of(state, outcome, plan)
        del outcome
        state = step.state  # before it is kept: the old one can go
        keep(step)
        del step
    return state


def step_of(state: ServerState, outcome: Outcome, plan: Plan) -> Step:
    """Move the global adapter by what a round ended with.

    Args:
        state: before the round.
        outcome: of the round.
        plan: of the run.
    """
    ballot = ballot_of(outcome, plan)
    if outcome.opened is None:
        return Step(ended=outcome.state, loss=None, bytes_out={}, state=state, update_norm=0.0, ballot=ballot)
    trained = plan.question is None and ballot is None
    return Step(
        ended=outcome.state,
        loss=outcome.opened.loss,
        bytes_out=outcome.bytes_out,
        state=advance(state, outcome.opened.mean_P, plan, number=outcome.state.number),
        update_norm=_norm(outcome.opened.mean_P) if trained else 0.0,
        answer=None if plan.question is None else outcome.opened,
        ballot=ballot,
    )


def _norm(mean_P: NDArray[np.float64]) -> float:
    """L2 norm; not by `np.linalg`, which wakes the threads of BLAS for longer than the sum takes."""
    return math.sqrt(float(np.einsum("p,p->", mean_P, mean_P)))
