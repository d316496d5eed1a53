"""Jobs that can be begun from the dashboard: those in the coordinator's `jobs/`, and those that runs were made of.

Covers: what a page shows of a job has a mark, and what is begun has the same one: a folder that was changed meanwhile,
    and a form that is sent twice, begin nothing.
Does not cover: whoever writes into the coordinator's directory in the moment between; that is its owner.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from partsong.common.build import to_tree
from partsong.common.dashboard.pages import NotThere
from partsong.common.errors import InputError
from partsong.common.identity.charter import SignedCharter
from partsong.common.plain_text import without_paths
from partsong.server.daemon.canary_job import CanaryJob, is_canary
from partsong.server.daemon.deployed_run import DeployedRun, all_runs, read_asked
from partsong.server.daemon.job import Job
from partsong.server.dashboard.run_view import privacy_words

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_NOT_TOLD = ("model.source",)
"""Where a base model lay on the machine that made the job; what it is stands in its digest."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Offer:
    """A job as a person is asked about it."""

    study: str
    facts: tuple[tuple[str, str], ...]
    """What it would do: what, and how much of it."""
    changes: tuple[str, ...]
    """Settings that are different from those of the newest run of this study; `first` says that there is none."""
    is_first: bool
    problem: str
    """Why no run can be made of it under the charter in force; empty: one can."""
    remedy: str
    mark: str
    """Of all that is shown, and of the newest run."""


def names_of_jobs(jobs: Path) -> tuple[str, ...]:
    """List the jobs that lie ready, by name."""
    return tuple(sorted(path.name for path in jobs.glob("*") if path.is_dir() and _NAME.fullmatch(path.name)))


def find_job(jobs: Path, name: str) -> Path:
    """Find a job that lies ready.

    Raises:
        NotThere: there is none of this name.
    """
    if name not in names_of_jobs(jobs):
        raise NotThere("job")
    return jobs / name


def offer_of(folder: Path, *, runs: Path, signed: SignedCharter | None) -> Offer:
    """Say what a job would do; begins nothing.

    Args:
        folder: of the job.
        runs: folder of all runs.
        signed: the charter in force.
    Raises:
        DataError: the job or a run cannot be read.
    """
    mark, job, before = mark_of(folder, runs=runs), read_asked(folder), all_runs(runs)
    facts, problem, remedy = _facts_under(job, signed)
    last = next((run for run in reversed(before) if run.about().study == job.study), None)
    return Offer(
        study=job.study,
        facts=facts,
        changes=() if last is None else differences(job, last),
        is_first=last is None,
        problem=problem,
        remedy=remedy,
        mark=mark,
    )


def mark_of(folder: Path, *, runs: Path) -> str:
    """Hash every file of a job, and the name of the newest run: it changes with either."""
    found = hashlib.sha256()
    for file in sorted(path for path in folder.iterdir() if path.is_file()):
        with file.open("rb") as source:
            found.update(hashlib.file_digest(source, "sha256").digest() + file.name.encode() + b"\0")
    return hashlib.sha256(found.digest() + "".join(run.name for run in all_runs(runs)[-1:]).encode()).hexdigest()


def differences(job: Job | CanaryJob, last: DeployedRun) -> tuple[str, ...]:
    """Name each setting that has another value than in an earlier run, and a base model that is another one."""
    if is_canary(last.job) != isinstance(job, CanaryJob):
        return (f"run {last.name} was of another kind",)
    before = read_asked(last.job)
    old, new = dict(_flat(to_tree(before.config))), dict(_flat(to_tree(job.config)))
    lines = [
        f"{key}: {old.get(key)} \N{RIGHTWARDS ARROW} {new.get(key)}"
        for key in sorted(old.keys() | new.keys())
        if key not in _NOT_TOLD and old.get(key) != new.get(key)
    ]
    if isinstance(job, Job) and isinstance(before, Job) and job.base.sha256 != before.base.sha256:
        lines.insert(0, f"base model: {before.base.sha256[:12]} \N{RIGHTWARDS ARROW} {job.base.sha256[:12]}")
    return tuple(lines)


def _facts_under(job: Job | CanaryJob, signed: SignedCharter | None) -> tuple[tuple[tuple[str, str], ...], str, str]:
    """Make the plan that the daemon would make, and say what it holds, or why there is none."""
    expected = ", ".join(job.expected_sites) or "whoever accepts"
    waits = f"up to {job.start_timeout_s / 3600:g} h for {expected}"
    if signed is None:
        return (("waits", waits),), "no charter that all sites have signed", "enrol the sites and collect signatures"
    try:
        plan = job.plan_under(signed.charter, run="shown")
    except InputError as err:
        words = f"{err.place}: found {err.found}, expected {err.expected}"
        return (("waits", waits),), without_paths(words), without_paths(err.remedy or "")
    facts = [
        ("what for", "trying the way, without records" if isinstance(job, CanaryJob) else job.config.purpose),
        *([] if isinstance(job, CanaryJob) else [("base model", f"{job.base.name}, sha256 {job.base.sha256[:12]}")]),
        ("rounds", f"{plan.rounds} of {plan.training.steps_per_round} steps, method {plan.method}"),
        ("privacy", privacy_words(plan)),
        ("sites in a sum", f"at least {plan.minimum_cohort} of {len(signed.charter.sites)}"),
        ("leaves a site", f"{plan.layout.size(trained=True):,} numbers a round, masked"),
        ("waits", waits),
    ]
    return tuple((what, without_paths(words)) for what, words in facts), "", ""


def _flat(tree: Any, where: str = "") -> Iterator[tuple[str, str]]:
    """Give every setting of a tree with its dotted name, fit to be shown."""
    if isinstance(tree, dict) and tree:
        for key, value in tree.items():
            yield from _flat(value, f"{where}.{key}" if where else key)
    else:
        yield where, without_paths(str(tree))
