"""What an evaluation's sums say: accuracy, loss, macro-F1, calibration and groups, each with its interval.

C classes, G groups.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from partsong.common.plan import Plan
from partsong.common.questions.question import (
    CONFIDENCE,
    CONFUSION,
    GROUPS,
    HITS,
    ROUGE,
    TOKEN_LOSS,
    TOKENS,
    UNITS,
    Question,
)
from partsong.common.secure_sum.opened import Opened
from partsong.server.questions.intervals import LEVEL, Estimate, Noised, count, mean_distance, proportion
from partsong.server.questions.sums import Block, Sums, sums_of


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """One line of the answer."""

    name: str
    value: float | None
    low: float
    high: float
    about: str
    """What it is, for people."""


def evaluation_figures(opened: Opened, plan: Plan) -> tuple[tuple[Figure, ...], dict[str, Any], dict[str, float]]:
    """Read figures, tables and the noise of the tables out of an evaluation's sum."""
    if plan.question is None:
        raise ValueError("a plan that asks a question")
    question, sums = plan.question, sums_of(opened, plan)
    figures = [*_whole(question, sums)]
    tables: dict[str, Any] = {}
    if CONFUSION in sums.parts:
        figures += _per_class(sums.parts[CONFUSION], plan.labels)
        tables["confusion"] = _matrix(sums.parts[CONFUSION].values, plan.labels)
    if CONFIDENCE in sums.parts:
        figures += _calibration(sums)
        tables["confidence"] = _bins(sums.parts[CONFIDENCE], question.bins)
    if GROUPS in sums.parts:
        figures += _per_group(question, sums.parts[GROUPS])
        tables["groups"] = _group_tables(question, sums.parts[GROUPS], plan.labels)
    return tuple(figures), tables, {name: block.sd for name, block in sums.parts.items()}


def _whole(question: Question, sums: Sums) -> Iterator[Figure]:
    units, hits = sums.parts[UNITS].at(0), sums.parts[HITS].at(0)
    yield figure_of("units", count(units), "records, or patients where these are hidden, one record each")
    name, about = ("accuracy", "class is right") if question.classes else ("exact_match", "every token is right")
    yield figure_of(name, proportion(hits, units), f"share of units whose {about}")
    loss = proportion(sums.loss, units, scale=question.loss_clip)
    yield figure_of("loss", loss, f"mean over units, each cut at {question.loss_clip:g} [nats]")
    if ROUGE in sums.parts:
        about = f"mean over units of ROUGE-L (F), of at most {question.most_new_tokens} generated tokens"
        yield figure_of("rouge_l", proportion(sums.parts[ROUGE].at(0), units), about)
    if TOKENS in sums.parts and TOKEN_LOSS in sums.parts:
        yield from _of_tokens(question, sums, units)


def _of_tokens(question: Question, sums: Sums, units: Noised) -> Iterator[Figure]:
    tokens, lost = sums.parts[TOKENS].at(0), sums.parts[TOKEN_LOSS].at(0)
    most = question.most_tokens
    yield figure_of("tokens", _scaled(count(tokens), most), f"learned tokens, at most {most} of a unit")
    # A ratio of two means of values between 0 and 1: each end takes half of the error.
    error = (1 - LEVEL) / 2
    above, below = proportion(lost, units, error=error), proportion(tokens, units, error=error)
    low = above.low / below.high * question.loss_clip if below.high else 0.0
    high = min(1.0, above.high / below.low) * question.loss_clip if below.low else question.loss_clip
    known = tokens.value > max(tokens.sd, 0.5 / most)
    value = min(max(lost.value / tokens.value, 0.0), 1.0) * question.loss_clip if known else None
    mean = Estimate(value=value, low=low, high=high)
    yield figure_of("token_loss", mean, "mean over those tokens, loss of a unit cut as above [nats]")
    perplexity = Estimate(value=None if value is None else _exp(value), low=_exp(low), high=_exp(high))
    yield figure_of("perplexity", perplexity, "exp(token_loss)")


def _exp(loss: float) -> float:
    """Stays finite, also where a plan cuts losses so high that a float could not hold their perplexity."""
    return math.exp(min(loss, 700.0))


def _per_class(cells: Block, labels: tuple[str, ...]) -> list[Figure]:
    """F1 of a class is 2p / (1 + p), p being the share that is both among the units that truly or by guess are of it.

    Given which units those are, how many of them are both is a sum of independent coins, so `proportion` holds for p.
    """
    classes = len(labels)
    cell_CC = np.arange(classes**2).reshape(classes, classes)
    error = (1 - LEVEL) / classes
    found: list[Estimate] = []
    for place in range(classes):
        either = np.zeros(classes**2, np.bool_)
        either[cell_CC[place]] = True
        either[cell_CC[:, place]] = True
        share = proportion(cells.at(int(cell_CC[place, place])), cells.total(either), error=error)
        found.append(_mapped(share))
    values = [one.value or 0.0 for one in found]
    # All classes' intervals hold together with the level asked for, so the mean of their ends does.
    macro = Estimate(
        value=math.fsum(values) / classes if any(one.value is not None for one in found) else None,
        low=math.fsum(one.low for one in found) / classes,
        high=math.fsum(one.high for one in found) / classes,
    )
    return [figure_of("macro_f1", macro, "mean over classes of F1; a class too small for its noise counts as 0")]


def _mapped(share: Estimate) -> Estimate:
    def f1(p: float) -> float:
        return 2 * p / (1 + p)

    value = None if share.value is None else f1(share.value)
    return Estimate(value=value, low=f1(share.low), high=f1(share.high))


def _calibration(sums: Sums) -> Iterator[Figure]:
    block, units = sums.parts[CONFIDENCE], sums.parts[UNITS].at(0)
    gaps = [_gap(block, place) for place in range(0, block.values.size, 3)]
    about = "ECE over the bins; noise and draw can only raise the value, the interval allows for both"
    yield figure_of("calibration_error", mean_distance(gaps, units), about)
    # Confidence minus hit lies in [-1, 1]; moved and halved it lies in [0, 1], where `proportion` holds.
    hits, sure = np.zeros(block.values.size, np.bool_), np.zeros(block.values.size, np.bool_)
    hits[1::3], sure[2::3] = True, True
    gap = block.total(sure), block.total(hits)
    moved = Noised(
        value=(gap[0].value - gap[1].value + units.value) / 2,
        sd=math.sqrt(gap[0].sd ** 2 + gap[1].sd ** 2 + units.sd**2) / 2,
        slack=(gap[0].slack + gap[1].slack + units.slack) / 2,
    )
    share = proportion(moved, units)
    over = Estimate(
        value=None if share.value is None else 2 * share.value - 1, low=2 * share.low - 1, high=2 * share.high - 1
    )
    yield figure_of("overconfidence", over, "mean confidence minus accuracy")


def _gap(block: Block, place: int) -> Noised:
    """Confidence minus hits of the bin whose three numbers begin at `place`."""
    hits, sure = block.at(place + 1), block.at(place + 2)
    return Noised(value=sure.value - hits.value, sd=math.hypot(sure.sd, hits.sd), slack=sure.slack + hits.slack)


def _per_group(question: Question, block: Block) -> Iterator[Figure]:
    """Accuracy in each group; counts of a classifier's group are sums over its confusion matrix."""
    size = question.classes**2 or 2
    for place, name in enumerate(question.all_groups):
        here = slice(place * size, (place + 1) * size)
        cells = Block(values=block.values[here], sd=block.sd, slack=block.slack)
        if question.classes:
            units, hits = cells.total(), cells.total(np.eye(question.classes, dtype=np.bool_).reshape(-1))
        else:
            units, hits = cells.at(0), cells.at(1)
        yield figure_of(f"units[{name}]", count(units), f"units of group {name}")
        word = "accuracy" if question.classes else "exact_match"
        yield figure_of(f"{word}[{name}]", proportion(hits, units), f"of group {name}")


def _matrix(values: Any, labels: tuple[str, ...]) -> dict[str, dict[str, float]]:
    rows = values.reshape(len(labels), len(labels))
    return {true: dict(zip(labels, map(float, row), strict=True)) for true, row in zip(labels, rows, strict=True)}


def _bins(block: Block, bins: int) -> list[dict[str, float]]:
    return [
        {"from": i / bins, "to": (i + 1) / bins, "units": float(n), "hits": float(h), "confidence": float(c)}
        for i, (n, h, c) in enumerate(block.values.reshape(-1, 3))
    ]


def _group_tables(question: Question, block: Block, labels: tuple[str, ...]) -> dict[str, Any]:
    by_group = zip(question.all_groups, block.values.reshape(len(question.all_groups), -1), strict=True)
    if question.classes:
        return {name: _matrix(row, labels) for name, row in by_group}
    return {name: {"units": float(row[0]), "hits": float(row[1])} for name, row in by_group}


def _scaled(found: Estimate, factor: float) -> Estimate:
    value = None if found.value is None else found.value * factor
    return Estimate(value=value, low=found.low * factor, high=found.high * factor)


def figure_of(name: str, found: Estimate, about: str) -> Figure:
    """Name an estimate."""
    return Figure(name=name, value=found.value, low=found.low, high=found.high, about=about)
