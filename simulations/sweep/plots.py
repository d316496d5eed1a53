"""Pictures of a sweep's table: the loss of each trial over its rounds, and what each swept key did to the last one."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from partsong.simulations.sweep.table import SWEPT

Row = Mapping[str, Any]


def can_plot() -> bool:
    """Whether matplotlib is installed, which partsong[plots] brings."""
    return importlib.util.find_spec("matplotlib") is not None


def plot(rows: Sequence[Row], folder: Path) -> list[Path]:
    """Write the pictures as SVG.

    Args:
        rows: of the table.
        folder: for the files; made if it is missing.
    Returns:
        the files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    done = [row for row in rows if row["round"] is not None and loss_of(row) is not None]
    keys = sorted(name for name in (rows[0] if rows else {}) if name.startswith(SWEPT))
    files = [_curves(done, folder / "loss.svg")]
    for key in keys:
        name = re.sub(r"[^\w.-]+", "-", key.removeprefix(SWEPT))
        files.append(_last(done, key, folder / f"loss-by-{name}.svg"))
    return files


def loss_of(row: Row) -> float | None:
    """The held-out loss of a row, or without one the federation's."""
    held_out: float | None = row["held_out_loss"]
    federation: float | None = row["federation_loss"]
    return federation if held_out is None else held_out


def last_rows(rows: Sequence[Row]) -> list[Row]:
    """The last round of each trial."""
    return list({row["trial"]: row for row in sorted(rows, key=lambda row: (row["trial"], row["round"]))}.values())


def _curves(rows: Sequence[Row], file: Path) -> Path:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for trial in sorted({row["trial"] for row in rows}):
        mine = sorted((row for row in rows if row["trial"] == trial), key=lambda row: int(row["round"]))
        axes.plot([row["round"] for row in mine], [loss_of(row) for row in mine], marker=".", label=f"trial {trial}")
    axes.set(xlabel="round", ylabel="loss")
    if rows:
        axes.legend(fontsize="small")
    figure.savefig(file)
    return file


def _last(rows: Sequence[Row], key: str, file: Path) -> Path:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 4), layout="constrained")
    axes = figure.subplots()
    last = last_rows(rows)
    values = sorted({row[key] for row in last}, key=_in_order)
    axes.scatter([values.index(row[key]) for row in last], [loss_of(row) for row in last])
    axes.set_xticks(range(len(values)), values)
    axes.set(xlabel=key.removeprefix(SWEPT), ylabel="loss after the last round")
    figure.savefig(file)
    return file


def _in_order(text: str) -> tuple[float, str]:
    """Numbers by their size, before words."""
    try:
        return float(text), ""
    except ValueError:
        return float("inf"), text
