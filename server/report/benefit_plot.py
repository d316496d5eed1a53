"""What each site got out of taking part, as marks on one scale for each site; the template draws them.

A plot says nothing that the table below it does not say. Every mark has a shape of its own, and no two hide each other
where they fall together, so that none needs its colour to be told from the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from partsong.server.report.beside import ARMS, Benefit
from partsong.server.report.charts import RIGHT, WIDTH, Tick, round_levels

LEFT, TOP = 16, 8
_ROW, _TEXT, _MARKS = 64, 26, 46
"""Pixels of a site; of those above the foot of its name, and above its marks."""
_LONGEST_NAME = 28
"""Letters that leave room for the change beside them on a phone, where letters are drawn larger."""
_SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Mark:
    """One model at one site."""

    arm: str
    """A name of `ARMS`; decides the shape."""
    at: float
    """Pixels from the left."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One site."""

    name: str
    change: str
    """From what it got alone, or else from the base model, to the joint adapter."""
    text_at: float
    """Pixels from the top to the line of both."""
    marks_at: float
    """Pixels from the top to the marks."""
    marks: tuple[Mark, ...]
    stretch: tuple[float, float]
    """That change, in pixels from the left."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BenefitPlot:
    """One figure of every model at every site."""

    id: str
    title: str
    description: str
    unit: str
    rows: tuple[Row, ...]
    columns: tuple[Tick, ...]
    keys: tuple[tuple[str, str], ...]
    """Models that occur, with their names for people."""
    top: int
    bottom: int
    """Ends of the grid, in pixels from the top."""


def benefit_plots(found: Sequence[Benefit]) -> tuple[BenefitPlot, ...]:
    """Draw the share of right answers and the loss; nothing where no site handed anything on.

    Args:
        found: each site once, in the order in which they are drawn.
    """
    if not found:
        return ()
    losses = round_levels(max(arm.loss for one in found for arm in one.arms))
    right = _plot(found, _Figure(id="right", title="Right answers at each site", unit="share that is right"), _SHARES)
    return right, _plot(found, _Figure(id="loss", title="Loss at each site", unit="loss, less is better"), losses)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Figure:
    id: str
    title: str
    unit: str

    @property
    def is_share(self) -> bool:
        return self.id == "right"

    def of(self, found: Benefit) -> dict[str, float]:
        return {arm.name: arm.right if self.is_share else arm.loss for arm in found.arms}

    def changed(self, amount: float) -> str:
        return f"{100 * amount:+.1f} points" if self.is_share else f"{amount:+.3f}"

    def better(self, amount: float) -> bool:
        return amount > 0 if self.is_share else amount < 0


def _plot(found: Sequence[Benefit], figure: _Figure, levels: Sequence[float]) -> BenefitPlot:
    def x(value: float) -> float:
        return LEFT + value / levels[-1] * (WIDTH - LEFT - RIGHT)

    occur = {arm.name for one in found for arm in one.arms}
    better = sum(figure.better(_change(figure.of(one))[1]) for one in found)
    return BenefitPlot(
        id=f"benefit-{figure.id}",
        title=figure.title,
        description=f"{better} of {len(found)} sites fare better with the joint adapter than alone; one that says "
        "nothing of that is compared with the base model. Every value stands in the table.",
        unit=figure.unit,
        rows=tuple(_row(one, figure, TOP + _ROW * place, x) for place, one in enumerate(found)),
        columns=tuple(Tick(at=x(level), label=f"{level:.0%}" if figure.is_share else f"{level:g}") for level in levels),
        top=TOP,
        bottom=TOP + _ROW * len(found),
        keys=tuple((arm, words) for arm, words in ARMS.items() if arm in occur),
    )


def _row(found: Benefit, figure: _Figure, top: float, x: Callable[[float], float]) -> Row:
    values = figure.of(found)
    against, amount = _change(values)
    return Row(
        name=_shortened(found.site),
        change=figure.changed(amount) + ("" if against == "alone" else " on base"),
        text_at=top + _TEXT,
        marks_at=top + _MARKS,
        marks=tuple(Mark(arm=arm, at=x(values[arm])) for arm in ARMS if arm in values),
        stretch=(x(values[against]), x(values["joint"])),
    )


def _shortened(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "\N{HORIZONTAL ELLIPSIS}"


def _change(values: dict[str, float]) -> tuple[str, float]:
    """What the joint adapter is compared with, and by how much it is apart from that."""
    against = "alone" if "alone" in values else "base"
    return against, values["joint"] - values[against]
