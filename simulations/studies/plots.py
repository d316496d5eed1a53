"""Figures as SVG files: a dot for every seed of a study, accuracy over bytes, and bars of who has how much.

They say nothing that the tables do not.
The grid of pixels and the round levels are those of a report's charts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from partsong.server.report.charts import BOTTOM, RIGHT, TOP, WIDTH, round_levels

_ROW, _NAMES = 26, 230
"""Pixels of a line of dots, and of its name."""
_HEIGHT = 300
_LEFT = 64
_COLOURS = ("#1b6ca8", "#b5532a", "#2f7d4f", "#7a4fa3", "#8a6d1d", "#a83b6b", "#3f7f86", "#555555", "#9c2f2f")
_STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#222}.grid{stroke:#ddd}.mean{stroke:#222;stroke-width:2}"
    "@media(prefers-color-scheme:dark){text{fill:#ddd}.grid{stroke:#444}.mean{stroke:#ddd}}"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Dots:
    """One line of a dot plot: a value for each seed."""

    name: str
    values: tuple[float, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Bar:
    """One bar of a bar plot, cut into shares."""

    name: str
    shares: tuple[float, ...]
    """One for each name of the shares, 0 or more."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """One line over a horizontal axis."""

    name: str
    points: tuple[tuple[float, float], ...]


def dot_plot(title: str, rows: Sequence[Dots]) -> str:
    """Draw shares between 0 and 1: a dot for each seed, a stroke at the mean.

    Args:
        title: says what the values are.
        rows: with at least one value each, from top to bottom.
    """
    height = TOP + _ROW * len(rows) + BOTTOM
    across = WIDTH - RIGHT - _NAMES

    def x(value: float) -> float:
        return _NAMES + value * across

    parts = [_grid_column(x(tick / 5), f"{tick / 5:g}", height) for tick in range(6)]
    for index, row in enumerate(rows):
        y = TOP + _ROW * (index + 0.5)
        mean = x(sum(row.values) / len(row.values))
        parts.append(f'<text x="{_NAMES - 10}" y="{y + 4:.1f}" text-anchor="end">{escape(row.name)}</text>')
        parts.append(f'<line class="mean" x1="{mean:.1f}" x2="{mean:.1f}" y1="{y - 9:.1f}" y2="{y + 9:.1f}"/>')
        parts += [
            f'<circle cx="{x(v):.1f}" cy="{y:.1f}" r="4" fill="{_COLOURS[0]}" fill-opacity=".6"/>' for v in row.values
        ]
    told = "; ".join(f"{row.name}: {sum(row.values) / len(row.values):.3f}" for row in rows)
    return _svg(title, told, height, parts)


def line_plot(title: str, unit: str, curves: Sequence[Curve]) -> str:
    """Draw shares between 0 and 1 over something that grows from 0.

    Args:
        title: says what the values are.
        unit: of the horizontal axis.
        curves: with at least one point each.
    """
    ticks = round_levels(max(x for curve in curves for x, _ in curve.points))
    across, down = WIDTH - RIGHT - _LEFT, _HEIGHT - TOP - BOTTOM
    legend = _HEIGHT + 18 * len(curves)
    parts = [_label(_LEFT + tick / ticks[-1] * across, _HEIGHT - BOTTOM + 18, f"{tick:g}") for tick in ticks]
    for fifth in range(6):
        y = _HEIGHT - BOTTOM - fifth / 5 * down
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{fifth / 5:g}</text>')
    parts.append(f'<text x="{WIDTH - RIGHT}" y="{_HEIGHT - 8}" text-anchor="end">{escape(unit)}</text>')
    for index, curve in enumerate(curves):
        colour = _COLOURS[index % len(_COLOURS)]
        line = " ".join(
            f"{_LEFT + x / ticks[-1] * across:.1f},{_HEIGHT - BOTTOM - value * down:.1f}" for x, value in curve.points
        )
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        y = _HEIGHT + 18 * index + 6
        parts.append(f'<rect x="{_LEFT}" y="{y - 9}" width="12" height="10" fill="{colour}"/>')
        parts.append(f'<text x="{_LEFT + 18}" y="{y}">{escape(curve.name)}</text>')
    told = "; ".join(f"{curve.name}: {curve.points[-1][1]:.3f} at {curve.points[-1][0]:.3g}" for curve in curves)
    return _svg(title, told, legend, parts)


def bar_plot(title: str, shares: Sequence[str], bars: Sequence[Bar]) -> str:
    """Draw amounts as bars from the left, each cut into coloured shares.

    Args:
        title: says what the amounts are.
        shares: names of the shares; none for a single one without a name.
        bars: from top to bottom, at least one of them longer than 0.
    """
    ticks = round_levels(max(sum(bar.shares) for bar in bars))
    across, height = WIDTH - RIGHT - _NAMES, TOP + _ROW * len(bars) + BOTTOM
    parts = [_grid_column(_NAMES + tick / ticks[-1] * across, f"{tick:g}", height) for tick in ticks]
    for index, bar in enumerate(bars):
        y, x = TOP + _ROW * (index + 0.5), float(_NAMES)
        parts.append(f'<text x="{_NAMES - 10}" y="{y + 4:.1f}" text-anchor="end">{escape(bar.name)}</text>')
        for place, share in enumerate(bar.shares):
            width, colour = share / ticks[-1] * across, _COLOURS[place % len(_COLOURS)]
            parts.append(f'<rect x="{x:.1f}" y="{y - 9:.1f}" width="{width:.1f}" height="18" fill="{colour}"/>')
            x += width
    for place, name in enumerate(shares):
        y = height + 18 * place + 6
        parts.append(f'<rect x="{_NAMES}" y="{y - 9}" width="12" height="10" fill="{_COLOURS[place]}"/>')
        parts.append(f'<text x="{_NAMES + 18}" y="{y}">{escape(name)}</text>')
    told = "; ".join(f"{bar.name}: {sum(bar.shares):g}" for bar in bars)
    return _svg(title, told, height + 18 * len(shares), parts)


def _grid_column(x: float, label: str, height: float) -> str:
    return f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{height - BOTTOM:.1f}"/>' + _label(
        x, height - BOTTOM + 18, label
    )


def _label(x: float, y: float, text: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="middle">{escape(text)}</text>'


def _svg(title: str, told: str, height: float, parts: Sequence[str]) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" role="img" '
        f'aria-label="{escape(title)}">\n<title>{escape(title)}</title>\n<desc>{escape(told)}</desc>\n'
        f"<style>{_STYLE}</style>\n"
    )
    return head + "\n".join(parts) + "\n</svg>\n"
