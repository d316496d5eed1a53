"""What a run that asks a question was answered: figures with their intervals, from the run's `answer.json`."""

from __future__ import annotations

import json
from pathlib import Path

from partsong.common.build import build
from partsong.common.errors import ConfigError, DataError
from partsong.server.questions.figures import Figure
from partsong.server.questions.publication import ANSWER

HEAD = ("figure", "value", "interval", "what it is")


def rows_of(run: Path) -> tuple[tuple[str, ...], ...]:
    """Read the figures of a run's answer; none where it asked no question or has no answer yet.

    Raises:
        DataError: the file is damaged.
    """
    file = run / ANSWER
    if not file.is_file():
        return ()
    try:
        figures = json.loads(file.read_bytes())["figures"]
        return tuple(_row(build(Figure, figure, where=ANSWER)) for figure in figures)
    except (ValueError, KeyError, TypeError, RecursionError, ConfigError) as err:
        raise DataError(ANSWER, found="figures that cannot be read", expected="what the run wrote") from err


def _row(figure: Figure) -> tuple[str, ...]:
    value = "?" if figure.value is None else f"{figure.value:.4g}"
    return figure.name, value, f"{figure.low:.4g} to {figure.high:.4g}", figure.about
