"""What a benchmark shows while it measures: lines in a pipe, a bar on a terminal."""

import io

import pytest
from rich.console import Console

from partsong.simulations.bench.progress import Bar, Lines, shown_on
from partsong.simulations.bench.stages import Moment

FIRST = Moment(number=1, of=7, what="mask [kernel]", elapsed_s=0.0, left_s=240.0, done=0.0)
THIRD = Moment(number=3, of=7, what="masks", elapsed_s=42.0, left_s=75.0, done=0.4)


def said(*moments: Moment, terminal: bool) -> str:
    """What was shown until the end."""
    file = io.StringIO()
    console = Console(file=file, force_terminal=terminal, width=100)
    shown = shown_on(console)
    assert isinstance(shown, Bar if terminal else Lines)
    with shown:
        for moment in moments:
            shown(moment)
    return file.getvalue()


def test_a_pipe_gets_a_plain_line_for_each_stage() -> None:
    """With its place, the time so far and the time left; nothing that only a terminal reads."""
    assert said(FIRST, THIRD, terminal=False).splitlines() == [
        "1 of 7: mask [kernel]; about 4 min left",
        "3 of 7: masks; 42 s so far, about 75 s left",
    ]


def test_a_terminal_gets_a_bar_with_the_time_left() -> None:
    """Names are shown as they are; the end is full."""
    text = said(FIRST, THIRD, terminal=True)

    assert "1 of 7: mask [kernel]" in text
    assert "about 4 min left" in text
    assert "about 75 s left" in text
    assert "measured" in text
    assert "\x1b[" in text


def test_a_benchmark_that_fails_leaves_the_terminal_as_it_was() -> None:
    """The cursor is back, and nothing says that all was measured."""
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=100)

    def fails() -> None:
        with shown_on(console) as shown:
            shown(FIRST)
            raise KeyError

    with pytest.raises(KeyError):
        fails()

    assert file.getvalue().rfind("\x1b[?25h") > file.getvalue().rfind("\x1b[?25l") >= 0
    assert "measured" not in file.getvalue()
