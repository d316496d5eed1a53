"""Carry out a sweep: one run after the other, each with its own directory, resumable between and within them."""

from __future__ import annotations

import json
from pathlib import Path

from rich.console import Console

from partsong.common.config import SimulationConfig
from partsong.common.errors import InputError, PartsongError, TryAgain
from partsong.simulations.configure import compose_simulation
from partsong.simulations.simulate import Finished, resume, simulate
from partsong.simulations.sweep.choices import read_choices
from partsong.simulations.sweep.folder import Asked, SweepFolder, Trial
from partsong.simulations.sweep.proposals import proposals_of
from partsong.simulations.sweep.table import write_table


def sweep(folder: SweepFolder, asked: Asked, *, console: Console) -> dict[int, Trial]:
    """Play every trial that is not done; a run that was stopped in the middle goes on from its checkpoint.

    Guarantees: after each trial the table holds all that is done. A trial that failed is not tried again and stands
        in the table with its values.
    Raises:
        InputError: the configuration of a trial is wrong; the sweep stops there.
        TryAgain: the machine is short of something; resume later.
    """
    proposals = proposals_of(read_choices(asked.overrides), trials=asked.trials, seed=asked.seed)
    fixed = read_choices(asked.overrides).fixed
    for number in range(len(proposals)):
        known = folder.trials()
        trial = known.get(number)
        if trial is not None and trial.state != "begun":
            continue
        if trial is None:
            before = {n: t for n, t in known.items() if n < number}
            trial = Trial(number=number, state="begun", values=proposals.next(number, before))
            folder.note(trial)
        words = " ".join(f"{key}={value}" for key, value in trial.values.items())
        console.print(f"trial {number + 1} of {len(proposals)}: {words}", highlight=False, markup=False)
        folder.note(_played(folder, trial, fixed, console=console))
        write_table(folder)
    return folder.trials()


def trial_config(folder: SweepFolder, trial: Trial, fixed: tuple[str, ...]) -> SimulationConfig:
    """Compose a trial's configuration; its runs lie in the sweep's directory.

    Raises:
        ConfigError: as `compose_simulation`.
    """
    chosen = [f"{key}={value}" for key, value in trial.values.items()]
    return compose_simulation([*fixed, *chosen, f"study=trial-{trial.number:04d}", f"run_dir={folder.runs}"])


def last_loss(run: Path) -> float | None:
    """Read the loss to minimise: the newest held-out one, or without held-out records the newest of the federation."""
    entries = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    held_out = [entry["held_out"]["loss"] for entry in entries if entry.get("held_out")]
    losses = held_out or [entry["loss"] for entry in entries if entry["loss"] is not None]
    return losses[-1] if losses else None


def _played(folder: SweepFolder, trial: Trial, fixed: tuple[str, ...], *, console: Console) -> Trial:
    """Run a trial, or go on with the run that it has already."""
    earlier = sorted(folder.runs.glob(f"trial-{trial.number:04d}-*/config.yaml"))
    try:
        done = _carried(folder, trial, fixed, earlier[-1].parent if earlier else None, console=console)
    except (InputError, TryAgain):
        raise
    except PartsongError as err:
        found = sorted(folder.runs.glob(f"trial-{trial.number:04d}-*/config.yaml"))
        run = found[-1].parent.name if found else None
        return Trial(number=trial.number, state="failed", values=trial.values, run=run, reason=str(err))
    path = done.run.path
    return Trial(number=trial.number, state="done", values=trial.values, run=path.name, loss=last_loss(path))


def _carried(
    folder: SweepFolder, trial: Trial, fixed: tuple[str, ...], earlier: Path | None, *, console: Console
) -> Finished:
    if earlier is not None:
        return resume(earlier, console=console)
    return simulate(trial_config(folder, trial, fixed), console=console)
