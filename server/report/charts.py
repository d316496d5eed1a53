"""Three small line charts of a run, as points on a grid of pixels; the template draws them.

A chart says nothing that the table of rounds does not say: it is for those who see it, and has a title and a
description for those who do not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from partsong.server.report.facts import Facts

WIDTH, HEIGHT = 640, 240
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 16, 44
_MOST_TICKS = 6
_LOWEST = 1e-9
"""Values below it are drawn on the axis."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tick:
    """A mark on an axis."""

    at: float
    """Pixels from the left, or from the top."""
    label: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Chart:
    """One line over the rounds, and where there is one a limit."""

    id: str
    title: str
    description: str
    unit: str
    """Of the vertical axis."""
    points: tuple[tuple[float, float], ...]
    """In pixels."""
    columns: tuple[Tick, ...]
    rows: tuple[Tick, ...]
    limit: Tick | None
    """A level that is drawn broken."""
    band: tuple[tuple[float, float, float], ...] = ()
    """Of an interval around each point: pixels from the left, and from the top to its upper and its lower end."""

    @property
    def outline(self) -> str:
        """Corners of the band as SVG takes them."""
        upper = [f"{x:.1f},{high:.1f}" for x, high, _ in self.band]
        return " ".join([*upper, *(f"{x:.1f},{low:.1f}" for x, _, low in reversed(self.band))])

    @property
    def line(self) -> str:
        """Points as SVG takes them."""
        return " ".join(f"{x:.1f},{y:.1f}" for x, y in self.points)


def budget(facts: Facts) -> Chart | None:
    """Epsilon after each round, below the epsilon of the plan; None without differential privacy."""
    if facts.privacy is None:
        return None
    spent = [(entry.round, entry.epsilon) for entry in facts.rounds if entry.epsilon is not None]
    most = facts.privacy.planned_epsilon
    return line_chart(
        "chart-budget", "Budget over the rounds", "epsilon", spent, limit=(most, f"plan {most:g}"), words="{:.3f}"
    )


def loss(facts: Facts) -> Chart | None:
    """Released loss of each round that has a sum."""
    found = [(entry.round, entry.loss) for entry in facts.rounds if entry.loss is not None]
    return line_chart("chart-loss", "Released training loss", "loss", found, limit=None, words="{:.3f}")


def contributions(facts: Facts) -> Chart | None:
    """Sites in the sum of each round, above the fewest that a sum may hold."""
    found = [(entry.round, float(len(entry.sites))) for entry in facts.rounds]
    fewest = None if facts.secure_sum is None else facts.secure_sum.smallest_sum
    limit = None if fewest is None else (float(fewest), f"fewest {fewest}")
    return line_chart("chart-sites", "Sites in each sum", "sites", found, limit=limit, words="{:.0f}")


def line_chart(
    name: str,
    title: str,
    unit: str,
    values: Sequence[tuple[int, float]],
    *,
    limit: tuple[float, str] | None,
    words: str,
    margin: float = 0.0,
) -> Chart | None:
    """Draw one line over the rounds; None without values.

    Args:
        name: of the chart among those of its page.
        title: for people.
        unit: of the vertical axis.
        values: by round, in their order.
        limit: a level with its label.
        words: format of a value in the description.
        margin: half the width of the band around the line [unit]; 0: none.
    """
    if not values:
        return None
    first, last = values[0], values[-1]
    levels = [value + margin for _, value in values] + ([] if limit is None else [limit[0]])
    steps = round_levels(max(*levels, 0.0))
    top = steps[-1]

    def x(number: float) -> float:
        span = max(last[0] - first[0], 1)
        return LEFT + (number - first[0]) / span * (WIDTH - LEFT - RIGHT)

    def y(level: float) -> float:
        return HEIGHT - BOTTOM - max(level, 0.0) / top * (HEIGHT - TOP - BOTTOM)

    low, high = min(value for _, value in values), max(value for _, value in values)
    told = [words.format(value) for value in (first[1], last[1], low, high)]
    return Chart(
        id=name,
        title=title,
        description=f"Round {first[0]}: {told[0]}. Round {last[0]}: {told[1]}. Lowest {told[2]}, highest {told[3]}. "
        "Every value stands in the table of rounds.",
        unit=unit,
        points=tuple((x(number), y(value)) for number, value in values),
        columns=tuple(Tick(at=x(number), label=str(number)) for number in _some([n for n, _ in values])),
        rows=tuple(Tick(at=y(step), label=f"{step:g}") for step in steps),
        limit=None if limit is None else Tick(at=y(limit[0]), label=limit[1]),
        band=tuple((x(number), y(value + margin), y(value - margin)) for number, value in values if margin > 0),
    )


def round_levels(highest: float) -> list[float]:
    """Give round levels from 0 to at least the highest value."""
    if highest < _LOWEST:
        return [0.0, 1.0]
    rough = highest / (_MOST_TICKS - 1)
    power = 10 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    return [round(step * count, 12) for count in range(math.ceil(highest / step - 1e-9) + 1)]


def _some(numbers: Sequence[int]) -> list[int]:
    """Leave out enough that labels do not touch; the first and the last stay."""
    every = max(1, math.ceil((len(numbers) - 1) / (2 * _MOST_TICKS)))
    kept = list(numbers[:-1:every])
    return [*kept, numbers[-1]]
