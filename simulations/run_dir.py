"""A run's directory: everything it was told and everything it did.

config.yaml        resolved configuration; `--resume` reads it
run.json           its SHA-256, versions, marks (what the run does not protect)
plan.json          what the sites agreed to
partition.json     who got how many records
metrics.jsonl      one line a round
checkpoint/        state after each round
sites/NAME/        each site's own journal of accepted queries
adapter/           the PEFT directory
report.txt         for people
"""

from __future__ import annotations

import datetime as dt
import platform
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

import partsong
from partsong.common.build import build, sha256_of, to_tree
from partsong.common.config import SimulationConfig
from partsong.common.errors import ConfigError, DataError
from partsong.common.files import append_line, write_bytes, write_json

_PACKAGES = ("torch", "transformers", "peft", "opacus", "flwr", "dp-accounting", "numpy")


class RunDir:
    """Paths and files of one run."""

    def __init__(self, path: Path) -> None:
        """Use `path`."""
        self.path = path
        self.adapter, self.report, self.metrics = path / "adapter", path / "report.txt", path / "metrics.jsonl"

    @classmethod
    def create(cls, config: SimulationConfig, *, marks: tuple[str, ...]) -> RunDir:
        """Make a new directory under `config.run_dir` and write down the configuration."""
        now = dt.datetime.now(dt.UTC).strftime("%Y%m%d-%H%M%S")
        study = re.sub(r"[^\w.-]+", "-", config.study)
        path = Path(config.run_dir) / f"{study}-{now}"
        for i in range(2, 1000):
            if not path.exists():
                break
            path = path.with_name(f"{study}-{now}-{i}")
        path.mkdir(parents=True)
        run = cls(path)
        write_bytes(path / "config.yaml", yaml.safe_dump(to_tree(config), sort_keys=False, allow_unicode=True).encode())
        write_json(
            path / "run.json",
            {
                "config_sha256": sha256_of(config),
                "marks": list(marks),
                "versions": {"partsong": partsong.__version__, "python": platform.python_version()}
                | {name: version(name) for name in _PACKAGES},
            },
        )
        return run

    @classmethod
    def reopen(cls, path: Path) -> tuple[RunDir, SimulationConfig]:
        """Open the directory of an earlier run and read its configuration.

        Raises:
            DataError: not a run directory.
        """
        file = path / "config.yaml"
        if not file.is_file():
            raise DataError(str(path), found="no config.yaml in it", expected="the directory of an earlier run")
        try:
            config = build(SimulationConfig, yaml.safe_load(file.read_text()))
        except (yaml.YAMLError, ConfigError) as err:
            raise DataError(
                str(file), found=f"a damaged configuration ({err})", expected="the one that was written"
            ) from err
        return cls(path), config

    @property
    def name(self) -> str:
        """Name of the run."""
        return self.path.name

    def journal(self, site: str) -> Path:
        """A site's journal of accepted queries."""
        folder = self.path / "sites" / re.sub(r"[^\w.-]+", "-", site)
        folder.mkdir(parents=True, exist_ok=True)
        return folder / "journal.jsonl"

    def rewrite_metrics(self, history: list[dict[str, Any]]) -> None:
        """Make `metrics.jsonl` hold exactly the rounds that a checkpoint knows."""
        self.metrics.unlink(missing_ok=True)
        for line in history:
            append_line(self.metrics, line)
