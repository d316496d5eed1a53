"""What a study's lines say about each other, good and bad, in sentences that follow from the numbers alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from partsong.simulations.studies.declare import Arm, Cell
from partsong.simulations.studies.runner import Entry
from partsong.simulations.studies.summary import Line
from partsong.simulations.studies.tables import ARMS, name_of

_SHARE_OF_GAIN = 0.85
"""Of what pooling gains over staying alone, the share that the best federated line is to keep."""

_POOLED: tuple[Arm, ...] = ("pooled", "frozen_pooled")
_ALONE: tuple[Arm, ...] = ("local", "frozen_local")


def gains(lines: Sequence[Line], *, among: Sequence[Line]) -> list[str]:
    """Say how much of pooling's gain each federated line keeps, against trained and against frozen references.

    Args:
        lines: of one split.
        among: of the whole grid; a pooled line stands with the first split of its corpus.
    """
    found = []
    for pooled, alone in zip(_POOLED, _ALONE, strict=True):
        high = _accuracy(among, pooled, corpus=lines[0].cell.split.corpus)
        low = _accuracy(lines, alone)
        if high is None or low is None:
            found.append(f"Not known: what pooling gains, by {ARMS[pooled]} and {ARMS[alone]}, not all of which ran.")
            continue
        found.append(
            f"{ARMS[pooled]} {high:.3f}, {ARMS[alone]} {low:.3f}: pooling gains {high - low:+.3f}, and "
            f"{_SHARE_OF_GAIN:g} of it would be {low + _SHARE_OF_GAIN * (high - low):.3f}."
        )
        found += [
            f"- {name_of(line.cell)}: {line.accuracy.mean:.3f}, "
            f"{(line.accuracy.mean - low) / (high - low):.2f} of the gain."
            for line in lines
            if line.cell.arm == "federated" and line.accuracy is not None and high > low
        ]
    return found


def shortfalls(lines: Sequence[Line]) -> list[str]:
    """List what did not work: runs that failed, federated lines below pooled ones, and sites that did better alone."""
    found = [
        f"{name_of(line.cell)} ({line.cell.split.name}): {len(line.failed)} of {line.planned} runs failed; "
        f"the first with: {line.failed[0].failed}"
        for line in lines
        if line.failed
    ]
    for line in lines:
        if line.cell.arm == "federated" and line.accuracy is not None:
            name = f"{name_of(line.cell)} ({line.cell.split.name})"
            found += [f"{name}: {text}" for text in (*_below_pooled(line, lines), *_better_alone(line, lines))]
    return found


def edges(entries: Sequence[Entry]) -> list[str]:
    """Name the lines whose sweep ends at its best rate, so that a better one may lie beyond."""
    found: dict[str, dict[float, float]] = {}
    cells: dict[str, Cell] = {}
    for entry in entries:
        if entry.cell.swept_rate is not None and entry.outcome is not None:
            found.setdefault(entry.cell.group, {})[entry.cell.swept_rate] = entry.outcome.accuracy or 0.0
            cells[entry.cell.group] = entry.cell
    return [text for group, cell in cells.items() if (text := _edge(cell, found[group])) is not None]


def _edge(cell: Cell, accuracy: Mapping[float, float]) -> str | None:
    rates = None if cell.method is None else cell.method.rates_at(cell.epsilon)
    if rates is None or set(rates) != set(accuracy):
        return None
    _, middle, high = rates
    best = max(rates, key=lambda rate: accuracy[rate])
    if best == middle:
        return None
    end = "highest" if best == high else "lowest"
    return f"{name_of(cell)} ({cell.split.name}): the best rate is the {end} that was tried."


def _below_pooled(line: Line, lines: Sequence[Line]) -> Iterator[str]:
    """Say by how much a federated line is below a model of all records at one place."""
    for arm in _POOLED:
        there, here = _accuracy(lines, arm, corpus=line.cell.split.corpus), line.accuracy
        if there is not None and here is not None and here.mean < there:
            yield f"{there - here.mean:.3f} below {ARMS[arm]}."


def _better_alone(line: Line, lines: Sequence[Line]) -> Iterator[str]:
    """Name the sites that a model of their own serves better, on records of their own kind."""
    for alone in lines:
        if alone.cell.arm in _ALONE and alone.cell.split == line.cell.split:
            own, ours = alone.own_by_site, line.own_by_site
            lost = [site for site, value in own.items() if site in ours and ours[site].mean < value.mean]
            if lost:
                count = f"{len(lost)} of {len(own)} sites"
                how = f"{count} did better alone, {ARMS[alone.cell.arm]} ({', '.join(lost)})"
                yield f"on its own kind of records, {how}."


def empty(entries: Sequence[Entry]) -> list[str]:
    """Count the cells that are empty, by reason."""
    reasons = Counter(entry.why_empty for entry in entries if entry.why_empty is not None)
    return [f"{count} cell{'' if count == 1 else 's'}: {reason}." for reason, count in reasons.most_common()]


def _accuracy(lines: Sequence[Line], arm: Arm, *, corpus: str | None = None) -> float | None:
    """Find the accuracy of an arm; where a corpus is named, of the first division of it."""
    return next(
        (
            line.accuracy.mean
            for line in lines
            if line.cell.arm == arm and line.accuracy is not None and corpus in (None, line.cell.split.corpus)
        ),
        None,
    )
