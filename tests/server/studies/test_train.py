"""The training study: what it asks, and what it keeps."""

from collections.abc import Callable, Mapping

import numpy as np
import pytest

from partsong.common.adapters.methods import ServerState
from partsong.common.plan import Plan
from partsong.server.aggregate import Opened
from partsong.server.desk import Outcome, Query
from partsong.server.rounds import Round
from partsong.server.studies.train import Step, train

NO_ATTEMPTS: Mapping[int, int] = {}


def outcome(query: Query, mean: float | None) -> Outcome:
    """How a round ended; None: it was aborted."""
    state = Round(number=query.round, attempt=query.attempt, cohort=("a",))
    opened = None if mean is None else Opened(mean_P=np.full(4, mean), loss=1.0, sites=1)
    return Outcome(state=state, opened=opened, bytes_out={})


def run(
    plan: Plan,
    means: dict[int, float | None],
    *,
    first: int = 1,
    attempts: Mapping[int, int] = NO_ATTEMPTS,
    spend: bool = False,
) -> tuple[list[tuple[int, int, float]], list[Step], ServerState]:
    """Drive the study; give queries with the adapter's first entry, steps kept and the last state."""
    kept: list[Step] = []
    asked: list[tuple[int, int, float]] = []

    def ask(query: Query) -> Outcome:
        asked.append((query.round, query.attempt, float(query.adapter_P[0])))
        return outcome(query, means[query.round])

    state = train(
        ServerState(adapter_P=np.zeros(4)), plan, first=first, attempts=attempts, spend_attempts=spend,
        ask=ask, keep=kept.append,
    )  # fmt: skip
    return asked, kept, state


def test_each_round_starts_from_the_adapter_of_the_last(make_plan: Callable[..., Plan]) -> None:
    """Three rounds of one site that moves by 1, 2 and 4."""
    asked, kept, state = run(make_plan(), {1: 1.0, 2: 2.0, 3: 4.0})

    assert asked == [(1, 1, 0.0), (2, 1, 1.0), (3, 1, 3.0)]
    assert state.adapter_P.tolist() == [7.0] * 4
    assert [(s.round, s.update_norm) for s in kept] == [(1, 2.0), (2, 4.0), (3, 8.0)]


def test_an_aborted_round_changes_nothing_and_is_kept(make_plan: Callable[..., Plan]) -> None:
    """The adapter stands, and the next round goes on from it."""
    asked, kept, state = run(make_plan(), {1: 1.0, 2: None, 3: 4.0})

    assert asked[2] == (3, 1, 1.0)
    assert (kept[1].update_norm, kept[1].loss) == (0.0, None)
    assert state.adapter_P.tolist() == [5.0] * 4


@pytest.mark.parametrize(("spend", "expected"), [(False, [(2, 3, 0.0), (3, 1, 2.0)]), (True, [(3, 1, 0.0)])])
def test_a_round_that_was_opened_before_a_crash_is_repeated_or_spent(
    make_plan: Callable[..., Plan],
    *,
    spend: bool,
    expected: list[tuple[int, int, float]],
) -> None:
    """Without privacy it is asked again as a new attempt; under privacy its records were read and it is over."""
    asked, _, _ = run(make_plan(), {2: 2.0, 3: 4.0}, first=2, attempts={1: 1, 2: 2}, spend=spend)

    assert asked == expected
