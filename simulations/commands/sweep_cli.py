"""The command `partsong sweep`."""

# ruff: noqa: FBT002, PLC0415, PLR0917  # how typer spells options; a command imports what it needs

from __future__ import annotations

import dataclasses
import datetime as dt
import json
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table


def sweep(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE,...]...",
            help="As for simulate; a key with several values, such as adapter.r=4,8 or "
            "'training.learning_rate=tag(log, interval(1e-3, 1e-1))', is swept.",
        ),
    ] = None,  # one line of help
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder to make for the sweep; runs/sweep-TIME by default.")
    ] = None,
    resume: Annotated[Path | None, typer.Option(metavar="DIR", help="Go on with the sweep in this folder.")] = None,
    trials: Annotated[
        int | None, typer.Option(min=1, help="Let Optuna draw so many instead of playing every combination.")
    ] = None,  # one line of help
    seed: Annotated[int, typer.Option(help="Of Optuna's draws.")] = 0,
    track: Annotated[
        Literal["tensorboard", "mlflow"] | None, typer.Option(help="Also write the table for this tracker.")
    ] = None,  # one line of help
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")] = False,
) -> None:
    """Simulate many settings one after the other: one table, and plots of it."""
    if out is not None and resume is not None:
        raise typer.BadParameter("give one of them", param_hint="--out, --resume")
    if resume is not None and (overrides or trials is not None):
        raise typer.BadParameter("a sweep keeps its settings: give --resume alone", param_hint="KEY=VALUE, --trials")
    from partsong.simulations.sweep.choices import read_choices
    from partsong.simulations.sweep.folder import Asked, SweepFolder
    from partsong.simulations.sweep.proposals import proposals_of
    from partsong.simulations.sweep.tracking import require_tracker
    from partsong.simulations.sweep.tracking import track as tracked

    if track is not None:
        require_tracker(track)
    if resume is not None:
        folder, asked = SweepFolder.reopen(resume)
    else:
        asked = Asked(overrides=tuple(overrides or ()), trials=trials, seed=seed)
        proposals_of(read_choices(asked.overrides), trials=trials, seed=seed)
        now = dt.datetime.now(dt.UTC).strftime("%Y%m%d-%H%M%S")
        folder = SweepFolder.create(out or Path("runs") / f"sweep-{now}", asked)
    from partsong.simulations.sweep.plots import can_plot, plot
    from partsong.simulations.sweep.sweep import sweep as play
    from partsong.simulations.sweep.table import read_table, write_table

    console = Console(stderr=True)
    found = play(folder, asked, console=console)
    rows = read_table(write_table(folder))
    pictures = plot(rows, folder.plots) if can_plot() else []
    if not pictures:
        console.print("no plots: matplotlib is not installed, partsong\\[plots] brings it", highlight=False)
    if track is not None:
        console.print(f"{track}: {tracked(track, rows, folder.path)}", highlight=False)
    if as_json:
        facts = {"table": str(folder.table), "plots": [str(file) for file in pictures]}
        trials_found = [dataclasses.asdict(found[number]) for number in sorted(found)]
        typer.echo(json.dumps(facts | {"trials": trials_found}, indent=2))
        return
    table = Table(box=None, header_style="bold")
    for name in ("trial", "settings", "state", "loss"):
        table.add_column(name)
    for number, trial in sorted(found.items()):
        words = " ".join(f"{key}={value}" for key, value in trial.values.items())
        table.add_row(str(number), words, trial.state, "" if trial.loss is None else f"{trial.loss:.4f}")
    Console().print(table)
    typer.echo(f"table: {folder.table}")
