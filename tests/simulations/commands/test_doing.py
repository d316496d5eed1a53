"""A command that says what it does, on a terminal and in a pipe."""

import io

from rich.console import Console

from partsong.simulations.commands.doing import Doing


def said(*steps: str, terminal: bool) -> str:
    """What was shown."""
    file = io.StringIO()
    with Doing(Console(file=file, force_terminal=terminal, width=60)) as say:
        for step in steps:
            say(step)
    return file.getvalue()


def test_a_pipe_gets_a_plain_line_for_each_step() -> None:
    """As it is: no markup, no wrapping at the width of a terminal that is not there."""
    steps = ("reading [base]", "x" * 90)

    assert said(*steps, terminal=False).splitlines() == list(steps)


def test_a_terminal_keeps_the_lines_and_gets_its_cursor_back() -> None:
    """A mark turns meanwhile; before the first step there is none."""
    text = said("reading [base]", "writing", terminal=True)

    assert "reading [base]" in text
    assert "writing" in text
    assert text.rfind("\x1b[?25h") > text.rfind("\x1b[?25l") >= 0
    assert said(terminal=True) == ""
