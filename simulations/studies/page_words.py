"""What the pages of all studies say in the same words: how much was run, by which command, of what, and where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from partsong.server.report.render import escape
from partsong.simulations.bench.figures import report
from partsong.simulations.studies.settings import StudyConfig
from partsong.simulations.studies.sources import Source

_PACKAGES = ("partsong", "torch", "transformers", "peft", "opacus", "flwr", "numpy")
_GRIDS = {"full": "the full grid", "cpu": "the CPU edition", "smoke": "a smoke test"}
_MADE_UP = ": its records are made up, and its numbers say nothing about learning"


def machine_of(config: StudyConfig) -> dict[str, Any]:
    """Name the machine and the versions that cells are played with."""
    facts = report("study", (), packages=_PACKAGES)
    return {**facts["machine"], "versions": facts["versions"], "threads": config.threads}


def state(config: StudyConfig, *, done: int, cells: int, cpu: str = "") -> str:
    """Say which grid it is and how much of it there is.

    Args:
        config: of the study.
        done: cells that were run.
        cells: of the grid.
        cpu: what has to be said of the CPU edition besides.
    """
    more = {"full": "", "cpu": cpu, "smoke": _MADE_UP}[config.grid]
    cut = "" if done == cells else " **The grid is not complete: empty cells were not run.**"
    return f"This is {_GRIDS[config.grid]}{more}. {done} of {cells} cells were run.{cut}"


def command(name: str, config: StudyConfig) -> str:
    """Write the command that goes on with this page, as a block."""
    words = [f"partsong study {name}", f"grid={config.grid}"]
    words += [] if config.data_dir is None else ["data_dir=DATA"]
    words += [] if config.dtype == "auto" else [f"dtype={config.dtype}"]
    words += [] if config.sweep == "run" else ["sweep=declared"]
    words += [f"only=[{','.join(config.only)}]"] if config.only else []
    return f"```sh\n{' '.join(words)}\n```"


def base(config: StudyConfig) -> str:
    """Name the base model, and the format of its weights where one was chosen."""
    form = "" if config.dtype == "auto" else f", its weights in {config.dtype}; adapters and heads are float32"
    return f"Base model: {escape(Path(config.base).name)}, frozen{form}."


def played_on(machine: Mapping[str, Any], *, hours: float) -> str:
    """Say where the cells were played, and how long it took."""
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items() if version)
    where = f"{machine['cpu']}, {machine['cores']} cores, GPU {machine['gpu'] or 'none'}; {versions}"
    return f"Machine: {where}. The cells shown took {hours:.2f} hours in all, beside what else it had to do."


def files(sources: Sequence[Source]) -> str:
    """List the files of the data."""
    return "\n".join(f"- `{s.path}`, {s.origin}, {s.licence}, SHA-256 `{s.sha256}`" for s in sources) or "Made up."
