"""A run's directory: everything it was told and everything it did.

config.yaml        resolved configuration; `--resume` reads it
run.json           name, SHA-256 of the configuration, versions, marks (what the run does not protect)
plan.json          what the sites agreed to
partition.json     who got how many records
partition.svg      the same as a picture
metrics.jsonl      one line a round
checkpoint/        state after each round
charter.json       who takes part, signed by all of them
coordinator/       its key, the public start, and what it keeps of the secure sum
sites/NAME/        what would be on a site's own disk: keys, vault, ledger, journal, copy of the adapter, and what the
                   plan means for its patients
adapter/           the PEFT directory
facts.json         what the run did, signed by the coordinator
report.txt         for people
resources.json     time and memory that the run took, where it was never resumed
"""

from __future__ import annotations

import datetime as dt
import errno
import hashlib
import json
import os
import platform
import re
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

import partsong
from partsong.common.build import build, sha256_of, to_tree
from partsong.common.config import SimulationConfig
from partsong.common.errors import ConfigError, DataError, TryAgain
from partsong.common.files import write_bytes, write_json
from partsong.server.run_files import RunFiles

_PACKAGES = ("torch", "transformers", "peft", "opacus", "flwr", "dp-accounting", "numpy")
_SAME_SECOND = 1000


class RunDir(RunFiles):
    """Paths and files of one simulated run."""

    def __init__(self, path: Path) -> None:
        """Use `path`."""
        super().__init__(path)
        self.partition, self._about = path / "partition.json", path / "run.json"

    @classmethod
    def create(cls, config: SimulationConfig, *, marks: tuple[str, ...]) -> RunDir:
        """Make a new directory under `config.run_dir` and write down the configuration.

        Guarantees:
            - the directory is this run's alone, also when another one starts in the same second;
            - on any error there is no new directory.
        Raises:
            ConfigError: no directory can be made there.
            TryAgain: the disk is full.
        """
        path = _fresh_folder(config)
        run = cls(path)
        try:
            text = yaml.safe_dump(to_tree(config), sort_keys=False, allow_unicode=True)
            write_bytes(path / "config.yaml", text.encode())
            write_json(run._about, _about(config, name=path.name, marks=marks))
        except BaseException:
            shutil.rmtree(path, ignore_errors=True)
            raise
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
        """Name of the run: stays the same when its directory is moved, so that its plan does."""
        if self._about.is_file():
            return str(json.loads(self._about.read_text())["name"])
        return self.path.name

    def site_folder(self, site: str) -> Path:
        """What would be a site's own disk; no two sites share one."""
        plain = re.fullmatch(r"\w[\w.-]*", site) is not None
        safe, mark = re.sub(r"[^\w-]+", "-", site), hashlib.sha256(site.encode()).hexdigest()[:8]
        folder = self.path / "sites" / (site if plain else f"{safe}-{mark}")
        folder.mkdir(parents=True, exist_ok=True)
        return folder


def _fresh_folder(config: SimulationConfig) -> Path:
    """Make a directory that nobody else has: STUDY-TIME, with a number where that is taken."""
    now = dt.datetime.now(dt.UTC).strftime("%Y%m%d-%H%M%S")
    study = re.sub(r"[^\w.-]+", "-", config.study)
    parent = Path(config.run_dir)
    try:
        parent.mkdir(parents=True, exist_ok=True)
        for i in range(1, _SAME_SECOND):
            path = parent / (f"{study}-{now}" if i == 1 else f"{study}-{now}-{i}")
            try:
                path.mkdir()
            except FileExistsError:
                continue
            return path
    except OSError as err:
        if err.errno in (errno.ENOSPC, errno.EDQUOT):
            raise TryAgain(f"{parent}: no space left to begin a run") from err
        reason = os.strerror(err.errno) if err.errno else type(err).__name__
        raise ConfigError("run_dir", found=f"{parent} ({reason})", expected="a folder that can be written to") from err
    raise TryAgain(f"{parent}: {_SAME_SECOND} runs of one name began in this second")


def _about(config: SimulationConfig, *, name: str, marks: tuple[str, ...]) -> dict[str, Any]:
    versions = {"partsong": partsong.__version__, "python": platform.python_version()}
    return {
        "name": name,
        "config_sha256": sha256_of(config),
        "marks": list(marks),
        "versions": versions | {package: version(package) for package in _PACKAGES},
    }
