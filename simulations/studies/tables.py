"""A study's lines as Markdown tables."""

from __future__ import annotations

from collections.abc import Sequence

from partsong.simulations.studies.declare import Cell
from partsong.simulations.studies.runner import Entry
from partsong.simulations.studies.summary import Line, Spread

ARMS = {
    "federated": "federated",
    "pooled": "pooled at one site",
    "local": "each site alone",
    "frozen_pooled": "frozen features, pooled",
    "frozen_local": "frozen features, each site alone",
}
_HEAD = (
    "trained",
    "method",
    "rank",
    "epsilon",
    "bits",
    "rate",
    "seeds",
    "accuracy",
    "macro recall",
    "own test, mean",
    "own test, worst site",
    "MB sent by a site",
)


def name_of(cell: Cell) -> str:
    """Name a line for people, short enough for a figure."""
    words = [ARMS[cell.arm]]
    if cell.arm == "federated" and cell.method is not None:
        words = [cell.method.name, f"r={_ranks(cell)}"]
        if cell.epsilon is not None:
            words.append(f"eps {cell.epsilon:g}, {cell.placement}")
        words.append(f"{cell.field_bits} bits")
    return " ".join(words)


def results(lines: Sequence[Line]) -> str:
    """Give the main table; a cell that was not run stays empty."""
    return table(_HEAD, [_row(line) for line in lines])


def by_site(lines: Sequence[Line]) -> str:
    """Give each line's accuracy on each site's own kind of records."""
    shown = [line for line in lines if line.own_by_site]
    sites = sorted({site for line in shown for site in line.own_by_site})
    rows = [[_full_name(line.cell), *(_of(line.own_by_site.get(site)) for site in sites)] for line in shown]
    return table(("own test", *sites), rows)


def sweep(entries: Sequence[Entry]) -> str:
    """Give the accuracy on validation of each swept rate."""
    swept = [entry for entry in entries if entry.cell.swept_rate is not None]
    rows = []
    for group in dict.fromkeys(entry.cell.group for entry in swept):
        mine = [entry for entry in swept if entry.cell.group == group]
        points = [f"{entry.cell.swept_rate:g}: {_accuracy(entry)}" for entry in mine]
        rows.append([mine[0].cell.split.name, _full_name(mine[0].cell), *points])
    return table(("corpus", "line", "low rate", "middle rate", "high rate"), rows)


def averages(lines: Sequence[Line]) -> str:
    """Give what a site of each rank sends, and what averages lose of the mean product."""
    shown = [line for line in lines if line.lost is not None]
    ranks = sorted({int(rank) for line in shown for rank in line.megabytes_by_rank})
    head = ("line", "two averages lose", "the best of the rank", "this run", *(f"MB, rank {rank}" for rank in ranks))
    rows = [
        [
            name_of(line.cell),
            *(f"{getattr(line.lost, kind):.2g}" for kind in ("fedit", "best", "ours")),
            *(_megabytes(line.megabytes_by_rank.get(str(rank))) for rank in ranks),
        ]
        for line in shown
    ]
    return table(head, rows)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Write a Markdown table."""
    ruler = "|".join("---" for _ in head)
    return "\n".join([f"| {' | '.join(head)} |", f"|{ruler}|", *(f"| {' | '.join(row)} |" for row in rows)])


def _row(line: Line) -> list[str]:
    cell = line.cell
    rates = {f"{outcome.rate:g}" for outcome in line.done if outcome.rate is not None}
    private = "" if cell.epsilon is None else f"{cell.epsilon:g}, noise {_place(cell)}"
    return [
        ARMS[cell.arm],
        cell.method.name if cell.method else "",
        _ranks(cell),
        private,
        str(cell.field_bits) if cell.arm == "federated" else "",
        ", ".join(sorted(rates)),
        f"{len(line.done)} of {line.planned}" + (f", {len(line.failed)} failed" if line.failed else ""),
        _of(line.accuracy),
        _of(line.macro_recall),
        _of(line.own),
        _of(line.worst),
        _megabytes(line.megabytes),
    ]


def _ranks(cell: Cell) -> str:
    return "/".join(map(str, cell.ranks))


def _place(cell: Cell) -> str:
    return "on the sum" if cell.placement == "sum" else "at each site"


def _full_name(cell: Cell) -> str:
    return name_of(cell) if cell.arm == "federated" or cell.method is None else f"{name_of(cell)}, r={cell.rank}"


def _accuracy(entry: Entry) -> str:
    if entry.outcome is None:
        return "not run"
    return "failed" if entry.outcome.accuracy is None else f"{entry.outcome.accuracy:.3f}"


def _of(value: Spread | None) -> str:
    return "" if value is None else str(value)


def _megabytes(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
