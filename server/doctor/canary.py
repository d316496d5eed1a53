"""Has the running coordinator carry out a canary job, over its control socket."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from partsong.common.control.surfaces import CoordinatorStatus, RunStatus
from partsong.common.doctor.canary import CanaryResult

_ENDED = ("finished", "failed", "stopped")
_PAUSE_S = 0.5


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
