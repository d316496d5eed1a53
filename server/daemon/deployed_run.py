"""A deployed run's directory: what every run has (`RunFiles`), and what a daemon needs to go on after a crash.

job/               the job as it was asked for; the daemon goes by this copy
run.json           name, when it was asked for, SHA-256 of the job, versions, marks
state.json         waiting, running, stopped, finished or failed, and why
capsules/          scrubbed causes of failures that sites released

A run is there whole or not at all, and each file is replaced in one step.
"""

from __future__ import annotations

import datetime as dt
import json
import platform
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal, TypeVar, get_args

import partsong
from partsong.common.build import build, sha256_of
from partsong.common.errors import ConfigError, DataError, InputError
from partsong.common.files import make_folder, sync_folder, write_bytes, write_json
from partsong.common.identity.charter import SignedCharter
from partsong.server.adapter_file import keep_start
from partsong.server.daemon.canary_job import CanaryJob, is_canary, read_canary
from partsong.server.daemon.job import Job, read_job
from partsong.server.marks import marks_of
from partsong.server.run_files import RunFiles

T = TypeVar("T")
State = Literal["waiting", "running", "stopped", "finished", "failed"]
OPEN_STATES: tuple[State, ...] = ("waiting", "running")
"""A run in one of these goes on by itself when the daemon starts."""
_PACKAGES = ("flwr", "numpy", "cryptography", "dp-accounting")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_MOST_IN_A_SECOND = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class Told:
    """What `state.json` holds."""

    state: State
    reason: str = ""

    def __post_init__(self) -> None:
        if self.state not in get_args(State):
            raise ValueError(f"a state of {', '.join(get_args(State))}")


@dataclass(frozen=True, kw_only=True, slots=True)
class About:
    """What `run.json` holds."""

    name: str
    study: str
    asked_ms: int
    """When it was asked for, since 1970; runs are carried out in this order."""
    config_sha256: str
    marks: tuple[str, ...]
    versions: Mapping[str, str]


class DeployedRun(RunFiles):
    """Paths and files of one deployed run."""

    def __init__(self, path: Path) -> None:
        """Use `path`."""
        super().__init__(path)
        self.job, self._about, self._state = path / "job", path / "run.json", path / "state.json"
        self.capsules = path / "capsules"

    @property
    def name(self) -> str:
        """Name of the folder, which the plan has too."""
        return self.path.name

    @property
    def is_canary(self) -> bool:
        """Whether it only tries the way; it has no adapter then."""
        return is_canary(self.job)

    def about(self) -> About:
        """Read `run.json`.

        Raises:
            DataError: missing or damaged.
        """
        return _read(self._about, About)

    def told(self) -> Told:
        """Read `state.json`.

        Raises:
            DataError: missing or damaged.
        """
        return _read(self._state, Told)

    def tell(self, state: State, *, reason: str = "") -> None:
        """Replace `state.json`; once this returns it survives a power cut."""
        write_json(self._state, {"state": state, "reason": reason})


def read_asked(folder: Path) -> Job | CanaryJob:
    """Read what was asked for.

    Raises:
        DataError: as `read_job`.
    """
    return read_canary(folder) if is_canary(folder) else read_job(folder)


def submit(runs: Path, job_folder: Path, signed: SignedCharter, *, now: dt.datetime) -> DeployedRun:
    """Make a job a run that waits.

    Args:
        runs: folder of all runs.
        job_folder: of the job; it is copied.
        signed: the charter in force.
        now: names the run.
    Raises:
        InputError: the job cannot be read, or there is no run of it under this charter; there is no new run.
        TryAgain: the disk is full; there is no new run.
    """
    job = read_asked(job_folder)
    make_folder(runs)
    path = _free_path(runs, job, now)
    part = runs / f".{path.name}.part"
    shutil.rmtree(part, ignore_errors=True)
    try:
        _fill(DeployedRun(part), job, signed, name=path.name, now=now)
        part.rename(path)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    sync_folder(runs)
    return DeployedRun(path)


def all_runs(runs: Path) -> list[DeployedRun]:
    """List the runs in the order in which they were asked for."""
    found = [DeployedRun(path) for path in runs.glob("*") if not path.name.startswith(".") and path.is_dir()]
    whole = [run for run in found if (run.path / "run.json").is_file()]
    return sorted(whole, key=lambda run: (run.about().asked_ms, run.name))


def find_run(runs: Path, name: str) -> DeployedRun:
    """Find a run by its name.

    Raises:
        InputError: there is none of this name.
    """
    run = DeployedRun(runs / name)
    if not _NAME.fullmatch(name) or not (run.path / "run.json").is_file():
        raise InputError("run", found=f"no run named {name[:128]!r}", expected="a name that `status` shows")
    return run


def _fill(run: DeployedRun, job: Job | CanaryJob, signed: SignedCharter, *, name: str, now: dt.datetime) -> None:
    plan = job.plan_under(signed.charter, run=name)
    job.write(run.job)
    run.keep_plan(plan)
    write_bytes(run.charter, signed.to_bytes())
    keep_start(run.start, plan.layout, trained_P=job.start_P, frozen_F=job.frozen_F)
    versions = {"partsong": partsong.__version__, "python": platform.python_version()}
    about = {
        "name": name,
        "study": job.study,
        "asked_ms": int(now.timestamp() * 1000),
        "config_sha256": sha256_of(job.config),
        "marks": [] if isinstance(job, CanaryJob) else list(marks_of(plan)),
        "versions": versions | {package: version(package) for package in _PACKAGES},
    }
    write_json(run.path / "run.json", about)
    run.tell("waiting")


def _free_path(runs: Path, job: Job | CanaryJob, now: dt.datetime) -> Path:
    study = re.sub(r"[^\w-]+", "-", job.study, flags=re.ASCII).strip("-_")[:64] or "study"
    stem = f"{study}-{now.astimezone(dt.UTC):%Y%m%d-%H%M%S}"
    for number in range(1, _MOST_IN_A_SECOND):
        path = runs / (stem if number == 1 else f"{stem}-{number}")
        if not path.exists():
            return path
    raise DataError(str(runs), found=f"{_MOST_IN_A_SECOND} runs of this second", expected="fewer")


def _read(file: Path, cls: type[T]) -> T:
    try:
        return build(cls, json.loads(file.read_bytes()), where=file.name)
    except (OSError, ValueError, RecursionError, ConfigError) as err:
        raise DataError(
            str(file),
            found="a damaged file",
            expected="what the daemon wrote",
            remedy="restore the run's directory from a backup, or start a new run",
        ) from err
