"""A sweep's directory: what it was asked for and how far each trial is. What is written here resumes it.

sweep.json         overrides, number of trials, what is minimised
trials.jsonl       one line each time a trial begins, is done, or fails
runs/              the run directory of each trial
results.parquet    one row for each trial and round
plots/             from the table, where partsong[plots] is installed
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from partsong.common.build import build
from partsong.common.errors import ConfigError, DataError
from partsong.common.files import write_bytes, write_json

State = Literal["begun", "done", "failed"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What a sweep was asked for."""

    overrides: tuple[str, ...]
    trials: int | None
    """Drawn by Optuna; None: every combination."""
    seed: int = 0
    """Of Optuna's draws."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """One run of a sweep."""

    number: int
    state: State
    values: dict[str, str]
    """Swept keys and their values."""
    run: str | None = None
    """Name of its directory below `runs`; None before it has one."""
    loss: float | None = None
    """Held-out loss after the last round, or without held-out records the federation's."""
    reason: str = ""
    """Why it failed."""


class SweepFolder:
    """Reads and writes a sweep's directory."""

    def __init__(self, path: Path) -> None:
        """Use `path`."""
        self.path, self.runs = path, path / "runs"
        self.table, self.plots = path / "results.parquet", path / "plots"
        self._asked, self._trials = path / "sweep.json", path / "trials.jsonl"

    @classmethod
    def create(cls, path: Path, asked: Asked) -> SweepFolder:
        """Make a new directory.

        Raises:
            ConfigError: it exists already.
        """
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            raise ConfigError(
                "--out", found=str(path), expected="a folder that does not exist", remedy="--resume goes on with one"
            ) from None
        folder = cls(path)
        write_json(folder._asked, asdict(asked))
        return folder

    @classmethod
    def reopen(cls, path: Path) -> tuple[SweepFolder, Asked]:
        """Open a directory.

        Raises:
            DataError: not that of a sweep.
        """
        folder = cls(path)
        if not folder._asked.is_file():
            raise DataError(str(path), found="no sweep.json in it", expected="the directory of a sweep")
        return folder, build(Asked, json.loads(folder._asked.read_text()))

    def note(self, trial: Trial) -> None:
        """Write down how far a trial is."""
        trials = self.trials() | {trial.number: trial}
        lines = [json.dumps(asdict(trials[number])) + "\n" for number in sorted(trials)]
        write_bytes(self._trials, "".join(lines).encode())

    def trials(self) -> dict[int, Trial]:
        """Give what is known of each trial, by number."""
        if not self._trials.is_file():
            return {}
        read = [build(Trial, json.loads(line)) for line in self._trials.read_text().splitlines()]
        return {trial.number: trial for trial in read}
