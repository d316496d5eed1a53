"""What a survey's sums say: how many records of which label, group and length, how many are missing or double."""

from __future__ import annotations

from typing import Any

import numpy as np

from partsong.common.plan import Plan
from partsong.common.questions.question import DUPLICATES, PERSONAL, TABLE, UNITS, Question
from partsong.common.secure_sum.opened import Opened
from partsong.server.questions.figures import Figure, figure_of
from partsong.server.questions.intervals import count, proportion
from partsong.server.questions.sums import Block, sums_of


def survey_figures(opened: Opened, plan: Plan) -> tuple[tuple[Figure, ...], dict[str, Any], dict[str, float]]:
    """Read figures, tables and the noise of the tables out of a survey's sum."""
    if plan.question is None:
        raise ValueError("a plan that asks a question")
    sums = sums_of(opened, plan)
    units, table = sums.parts[UNITS].at(0), sums.parts[TABLE]
    cells = _shape(plan.question)
    missing = np.zeros(cells, np.bool_)
    missing[..., 1] = True
    figures = [
        figure_of("units", count(units), "records, or patients where these are hidden, one record each"),
        figure_of(
            "duplicates",
            proportion(sums.parts[DUPLICATES].at(0), units),
            "share of records equal to another one of the same site",
        ),
        figure_of("missing", proportion(table.total(missing.reshape(-1)), units), "share with nothing to learn from"),
    ]
    if PERSONAL in sums.parts:
        about = "share with an e-mail address, telephone number, IBAN or card number; names are not found"
        figures.append(figure_of("personal_details", proportion(sums.parts[PERSONAL].at(0), units), about))
    names = [plan.labels or ("(all)",), plan.question.all_groups or ("(all)",), _classes_of_length(plan.question)]
    for axis, (what, values) in enumerate(zip(("label", "group", "length"), names, strict=True)):
        figures += _along(table, cells, axis=axis, what=what, values=values)
    tables = {
        "table": {"axes": ["label", "group", "length", "missing"], "values": table.values.reshape(cells).tolist()}
    }
    return tuple(figures), tables, {name: block.sd for name, block in sums.parts.items()}


def _along(table: Block, cells: tuple[int, ...], *, axis: int, what: str, values: tuple[str, ...]) -> list[Figure]:
    """Count along one axis; the noises of all cells that are added up are in the interval."""
    found = []
    for place, name in enumerate(values if len(values) > 1 else ()):
        chosen = np.zeros(cells, np.bool_)
        np.moveaxis(chosen, axis, 0)[place] = True
        found.append(figure_of(f"{what}[{name}]", count(table.total(chosen.reshape(-1))), f"units of {what} {name}"))
    return found


def _shape(question: Question) -> tuple[int, int, int, int]:
    return max(1, question.classes), max(1, len(question.all_groups)), len(question.lengths) + 1, 2


def _classes_of_length(question: Question) -> tuple[str, ...]:
    ends = question.lengths
    return (*(f"<={end}" for end in ends), f">{ends[-1]}") if ends else ("(all)",)
