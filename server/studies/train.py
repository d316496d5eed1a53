"""The training study: round after round, one global adapter.

A generator: it yields queries and is sent outcomes, so it runs over any transport and under test without one.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass

import numpy as np

from partsong.common.adapters.methods import ServerState, advance
from partsong.common.plan import Plan
from partsong.server.desk import Outcome, Query


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """What a round did to the global adapter."""

    round: int
    outcome: Outcome
    state: ServerState
    """After the round; unchanged where the round was aborted."""
    update_norm: float
    """L2 norm of the mean update; 0 where there is none, or an answer in its place."""


def train(
    state: ServerState,
    plan: Plan,
    *,
    first: int,
    attempts: Mapping[int, int],
    spend_attempts: bool,
    keep: Callable[[Step], None],
) -> Generator[Query, Outcome, ServerState]:
    """Ask for the plan's rounds of training, starting with number `first`; return the last state.

    Args:
        state: the adapter to start from.
        plan: of the run: how many rounds, and what is done with a mean update.
        first: number of the first round asked here; above 1 after a resume.
        attempts: how often each round was opened before.
        spend_attempts: whether an opened round that never finished counts as done. True under differential
            privacy: its records were read and its budget is gone, so it is not asked again.
        keep: told each step, before the next query; saves it.
    """
    for number in range(first, plan.rounds + 1):
        before = attempts.get(number, 0)
        if before and spend_attempts:
            continue
        outcome = yield Query(round=number, attempt=before + 1, adapter_P=state.adapter_P.astype(np.float32))
        step = step_of(state, outcome, plan)
        state = step.state  # before it is kept: the old one can go
        keep(step)
        del outcome, step  # the next round needs neither, and each holds a vector
    return state


def step_of(state: ServerState, outcome: Outcome, plan: Plan) -> Step:
    """Move the global adapter by what a round ended with.

    Args:
        state: before the round.
        outcome: of the round.
        plan: of the run.
    """
    if outcome.opened is None:
        return Step(round=outcome.state.number, outcome=outcome, state=state, update_norm=0.0)
    return Step(
        round=outcome.state.number,
        outcome=outcome,
        state=advance(state, outcome.opened.mean_P, plan, number=outcome.state.number),
        update_norm=float(np.linalg.norm(outcome.opened.mean_P)) if plan.question is None else 0.0,
    )
