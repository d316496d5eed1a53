"""What a page of a report is made of: sections of tables, points and charts, before they are HTML or Markdown.

Every number is put into words here once, so that all renderings of one report show the same.
"""

from __future__ import annotations

from dataclasses import dataclass

from partsong.server.report.benefit_plot import BenefitPlot
from partsong.server.report.charts import Chart


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """Rows under named columns; the first cell of a row names it."""

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def __post_init__(self) -> None:
        if any(len(row) != len(self.head) for row in self.rows):
            raise ValueError(f"{len(self.head)} cells in each row")


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """A heading and what stands below it."""

    id: str
    """Lower-case letters and hyphens."""
    title: str
    lead: str = ""
    tables: tuple[Table, ...] = ()
    points: tuple[str, ...] = ()
    charts: tuple[Chart, ...] = ()
    plots: tuple[BenefitPlot, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """A whole report."""

    title: str
    lead: str
    sections: tuple[Section, ...]


def pairs(caption: str, *rows: tuple[str, str]) -> Table:
    """Make a table of names and values."""
    return Table(caption=caption, head=("what", "value"), rows=rows)


def names(sites: tuple[str, ...]) -> str:
    """Join names, or say that there are none."""
    return ", ".join(sites) or "none"
