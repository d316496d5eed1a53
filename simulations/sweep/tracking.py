"""A sweep's table in the formats of experiment trackers, as files beside it. Nothing is sent anywhere."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from partsong.common.errors import ConfigError
from partsong.simulations.sweep.table import SWEPT

Tracker = Literal["tensorboard", "mlflow"]
Row = Mapping[str, Any]
_MEASURED = ("federation_loss", "held_out_loss", "held_out_exact", "epsilon", "update_norm", "bytes_out", "seconds")


def require_tracker(name: Tracker) -> None:
    """Refuse a tracker that is not installed, before anything is played.

    Raises:
        ConfigError: it is missing.
    """
    if importlib.util.find_spec(name) is None:
        raise ConfigError(
            "--track", found=f"{name}, which is not installed", expected=" or ".join(get_args(Tracker)),
            remedy="install partsong[tracking]",
        )  # fmt: skip


def track(name: Tracker, rows: Sequence[Row], folder: Path) -> Path:
    """Write the table for a tracker and give the folder that it is pointed to.

    Args:
        name: of the tracker.
        rows: of the table.
        folder: of the sweep.
    """
    write: Callable[[Sequence[Row], Path], None] = {"tensorboard": _tensorboard, "mlflow": _mlflow}[name]
    out = folder / name
    out.mkdir(exist_ok=True)
    write(rows, out)
    return out


def _by_trial(rows: Sequence[Row]) -> Iterator[tuple[int, list[Row]]]:
    for trial in sorted({row["trial"] for row in rows}):
        yield trial, [row for row in rows if row["trial"] == trial and row["round"] is not None]


def _swept(row: Row) -> dict[str, str]:
    return {name.removeprefix(SWEPT): str(value) for name, value in row.items() if name.startswith(SWEPT)}


def _measured(row: Row) -> dict[str, float]:
    return {name: float(row[name]) for name in _MEASURED if row[name] is not None}


def _tensorboard(rows: Sequence[Row], folder: Path) -> None:
    from torch.utils.tensorboard import SummaryWriter

    for trial, mine in _by_trial(rows):
        with SummaryWriter(log_dir=str(folder / f"trial-{trial:04d}")) as writer:
            for row in mine:
                for name, measured in _measured(row).items():
                    writer.add_scalar(name, measured, row["round"])
            if mine:
                writer.add_text("settings", ", ".join(f"{key}={value}" for key, value in _swept(mine[0]).items()))


def _mlflow(rows: Sequence[Row], folder: Path) -> None:
    import mlflow

    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{(folder / 'mlflow.db').resolve()}")
    name = folder.parent.name
    known = client.get_experiment_by_name(name)
    experiment = client.create_experiment(name) if known is None else known.experiment_id
    for earlier in client.search_runs([experiment]):
        client.delete_run(earlier.info.run_id)  # of a sweep that was resumed: the table has all of it again
    for trial, mine in _by_trial(rows):
        run = client.create_run(experiment, run_name=f"trial-{trial:04d}").info.run_id
        for key, value in _swept(mine[0]).items() if mine else ():
            client.log_param(run, key, value)
        for row in mine:
            for name_of, measured in _measured(row).items():
                client.log_metric(run, name_of, measured, step=row["round"])
        client.set_terminated(run)
