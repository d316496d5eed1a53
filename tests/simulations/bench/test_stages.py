"""How far a benchmark is, and how long the rest may take."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partsong.simulations.bench.figures import Figure
from partsong.simulations.bench.stages import Moment, Stage, in_turn, quiet


def one(name: str) -> Figure:
    """One thing that was measured."""
    return Figure(name=name, value=1.0, unit="s")


def played(lasts_s: list[float], usual_s: list[float]) -> list[Moment]:
    """Play stages that last so long; what was told."""
    now_s, told = [0.0], list[Moment]()

    def measure(seconds: float) -> list[Figure]:
        now_s[0] += seconds
        return []

    stages = [
        Stage(what=str(place), usual_s=usual, measure=lambda seconds=lasts: measure(seconds))  # type: ignore[misc]
        for place, (lasts, usual) in enumerate(zip(lasts_s, usual_s, strict=True))
    ]
    in_turn(stages, tell=told.append, clock=lambda: now_s[0])
    return told


def test_stages_are_measured_in_turn_and_told_before_they_begin() -> None:
    """Each with its place; figures keep their order."""
    told = list[Moment]()
    stages = [
        Stage(what="one", usual_s=1, measure=lambda: [one("a"), one("b")]),
        Stage(what="other", usual_s=1, measure=lambda: [one(f"after {len(told)}")]),
    ]

    found = in_turn(stages, tell=told.append)

    assert [figure.name for figure in found] == ["a", "b", "after 2"]
    assert [(moment.number, moment.of, moment.what) for moment in told] == [(1, 2, "one"), (2, 2, "other")]
    assert in_turn(stages[:1], tell=quiet) == found[:2]


def test_the_time_left_by_hand() -> None:
    """Usual 10, 30 and 60 s: all of it at first; a machine of half the speed makes what is left twice as long."""
    told = played([20, 60, 120], [10, 30, 60])

    assert [moment.left_s for moment in told] == [100, 2 * 90, 2 * 60]
    assert [moment.elapsed_s for moment in told] == [0, 20, 80]
    assert [moment.done for moment in told] == pytest.approx([0, 0.1, 0.4])


def test_a_stage_that_is_nearly_nothing_does_not_tell_the_pace() -> None:
    """One hundredth of the whole that took ten times as long; the next one is long enough to tell."""
    told = played([10, 50, 10], [1, 50, 49])

    assert told[1].left_s == 99
    assert told[2].left_s == pytest.approx(60 / 51 * 49)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0.1, 1000), min_size=1, max_size=9), st.floats(0.01, 100))
def test_where_the_usual_times_hold_the_forecast_is_right(usual_s: list[float], pace: float) -> None:
    """On a machine of any speed, once a tenth is done: what has passed and what is left are the whole."""
    whole_s = pace * sum(usual_s)

    for moment in played([pace * seconds for seconds in usual_s], usual_s):
        if moment.done > 0.11:
            assert moment.elapsed_s + moment.left_s == pytest.approx(whole_s)
        assert 0 <= moment.done < 1 or moment.done == pytest.approx(1)
