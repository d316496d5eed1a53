"""Lines that say how long a command may still take."""

import pytest

from partsong.common.time_left import PAUSE_S, TimeLeft, words_of


class Clock:
    """A clock that goes on by the same time whenever somebody looks."""

    def __init__(self, step_s: float) -> None:
        self.now_s, self.step_s = 0.0, step_s

    def __call__(self) -> float:
        self.now_s += self.step_s
        return self.now_s


def test_the_time_left_is_the_mean_of_the_steps_times_those_to_come() -> None:
    """Ten seconds a step, four steps: thirty, twenty and ten seconds are left, and the end says nothing."""
    said: list[str] = []
    left = TimeLeft("steps", of=4, say=said.append, clock=Clock(PAUSE_S))

    for _ in range(4):
        left.step()

    assert said == [f"steps: {n} of 4, about {(4 - n) * 10} s left" for n in (1, 2, 3)]


@pytest.mark.parametrize(("step_s", "lines"), [(0.001, 0), (1.0, 9), (2.5, 24)])
def test_short_work_says_nothing_and_long_work_not_too_much(step_s: float, lines: int) -> None:
    """A line in ten seconds at most; the control is the long one."""
    said: list[str] = []
    left = TimeLeft("steps", of=100, say=said.append, clock=Clock(step_s))

    for _ in range(100):
        left.step()

    assert len(said) == lines


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.2, "0 s"), (99.4, "99 s"), (100, "2 min"), (5399, "90 min"), (5400, "1.5 h")]
)
def test_times_are_said_as_people_say_them(seconds: float, words: str) -> None:
    """In one unit."""
    assert words_of(seconds) == words
