"""The coordinator's canaries: has the running daemon carry one out, or finds how the newest one ended."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, Protocol

from partsong.common.control.surfaces import CoordinatorStatus, RunStatus
from partsong.common.doctor.canary import CanaryResult, LastCanary
from partsong.server.daemon.deployed_run import all_runs

_ENDED = ("finished", "failed", "stopped")
_PAUSE_S = 0.5
_STATES: Mapping[str, Literal["right", "wrong"]] = {"finished": "right", "failed": "wrong", "stopped": "wrong"}


class Jobs(Protocol):
    """What is used of `partsong.common.control.client.CoordinatorClient`."""

    def status(self) -> CoordinatorStatus:
        """Say who is a member."""

    def run(self, job: Path) -> RunStatus:
        """Start a job."""

    def runs(self) -> tuple[RunStatus, ...]:
        """List the runs."""


def ask_canary(control: Jobs, job: Path, *, clock: Callable[[], float], pause: Callable[[float], None]) -> CanaryResult:
    """Start a canary job and wait until it has ended.

    Args:
        control: a connection to the daemon.
        job: absolute path of the job's folder.
        clock: seconds that only grow.
        pause: waits for so many seconds.
    """
    start, run = clock(), control.run(job)
    while run.state not in _ENDED:
        pause(_PAUSE_S)
        run = next(found for found in control.runs() if found.run == run.run)
    answered = tuple(site.site for site in run.sites if site.rounds > 0)
    members = control.status().members
    return CanaryResult(
        run=run.run,
        finished=run.state == "finished",
        reason=run.reason,
        answered=answered,
        missing=tuple(site for site in members if site not in answered),
        seconds=clock() - start,
    )


def last_canary(runs: Path) -> LastCanary | None:
    """Find how the newest canary of a coordinator ended.

    Args:
        runs: folder of all runs.
    Raises:
        DataError: a run's files are damaged.
    """
    canaries = [run for run in all_runs(runs) if run.is_canary]
    if not canaries:
        return None
    newest = canaries[-1]
    told = newest.told()
    return LastCanary(
        run=newest.name,
        state=_STATES.get(told.state, "open"),
        at_ms=newest.about().asked_ms,
        reason=told.reason,
    )
