"""One tidy table of a sweep: a row for each trial and round, a column for each key that was swept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from partsong.simulations.sweep.folder import SweepFolder, Trial

_COLUMNS = (
    ("trial", pa.int64()), ("state", pa.string()), ("run", pa.string()), ("round", pa.int64()),
    ("sites", pa.int64()), ("epsilon", pa.float64()), ("federation_loss", pa.float64()),
    ("held_out_loss", pa.float64()), ("held_out_exact", pa.float64()), ("update_norm", pa.float64()),
    ("bytes_out", pa.int64()), ("seconds", pa.float64()),
)  # fmt: skip
SWEPT = "swept:"
"""Begins the name of a column of a swept key; its values are text, as the override had them."""


def write_table(folder: SweepFolder) -> Path:
    """Write `results.parquet` from the trials so far, and give its path."""
    trials = folder.trials()
    keys = sorted({key for trial in trials.values() for key in trial.values})
    schema = pa.schema([*_COLUMNS, *((f"{SWEPT}{key}", pa.string()) for key in keys)])
    rows = [row for number in sorted(trials) for row in _rows(folder, trials[number])]
    half = folder.table.with_suffix(".new")
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), half)
    half.replace(folder.table)
    return folder.table


def read_table(file: Path) -> list[dict[str, Any]]:
    """Read the rows back."""
    return list(pq.read_table(file).to_pylist())


def _rows(folder: SweepFolder, trial: Trial) -> list[dict[str, Any]]:
    about = {"trial": trial.number, "state": trial.state, "run": trial.run}
    about |= {f"{SWEPT}{key}": value for key, value in trial.values.items()}
    metrics = None if trial.run is None else folder.runs / trial.run / "metrics.jsonl"
    if metrics is None or not metrics.is_file():
        return [about]
    return [about | _round(json.loads(line)) for line in metrics.read_text().splitlines()] or [about]


def _round(entry: dict[str, Any]) -> dict[str, Any]:
    held_out = entry.get("held_out") or {}
    return {
        "round": entry["round"],
        "sites": len(entry["sites"]),
        "epsilon": entry["epsilon"],
        "federation_loss": entry["loss"],
        "held_out_loss": held_out.get("loss"),
        "held_out_exact": held_out.get("exact"),
        "update_norm": entry["update_norm"],
        "bytes_out": sum(entry["bytes_out"].values()),
        "seconds": entry["seconds"],
    }
