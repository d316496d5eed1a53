"""What a run that asks a question was answered: figures with their intervals, from the run's `answer.json`."""

from __future__ import annotations

from pathlib import Path

from partsong.server.questions.figures import Figure
from partsong.server.questions.signed import ANSWER, read_answer

HEAD = ("figure", "value", "interval", "what it is")


def rows_of(run: Path) -> tuple[tuple[str, ...], ...]:
    """Read the figures of a run's answer; none where it asked no question or has no answer yet.

    Raises:
        DataError: the file is damaged, or not what was signed.
    """
    file = run / ANSWER
    return tuple(map(_row, read_answer(file).answer.figures)) if file.is_file() else ()


def _row(figure: Figure) -> tuple[str, ...]:
    value = "?" if figure.value is None else f"{figure.value:.4g}"
    return figure.name, value, f"{figure.low:.4g} to {figure.high:.4g}", figure.about
