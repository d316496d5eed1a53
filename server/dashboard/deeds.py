"""What can be done at the coordinator's dashboard: begin, stop and resume a run, each on a page that says what follows.

Covers: nothing is done before a person has seen its page and ticked the box; a run is begun of the job that was shown,
    once; what the daemon's own rules refuse stays refused.
Does not cover: who sits at the keyboard. What a site agrees to is decided there.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from partsong.common.control.surfaces import CoordinatorControl, RunStatus
from partsong.common.dashboard.pages import Answer, Asked, Moved, NotThere, Shown, View
from partsong.common.errors import InputError
from partsong.common.identity.charter import SignedCharter
from partsong.common.plain_text import without_paths
from partsong.server.daemon.deployed_run import OPEN_STATES, DeployedRun, find_run
from partsong.server.daemon.explain import status_of
from partsong.server.dashboard.jobs import find_job, mark_of, offer_of

AGAIN = ("stopped", "failed")
"""States from which a run goes on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Office:
    """What deeds are done with."""

    control: CoordinatorControl
    runs: Path
    """Folder of all runs."""
    jobs: Path
    """Folder of the jobs that lie ready."""
    charter: Callable[[], SignedCharter | None]
    """Gives the newest charter; None: none yet."""


class Deeds:
    """The pages that ask, and the forms that do."""

    def __init__(self, office: Office) -> None:
        """Act for `office`."""
        self._office = office

    def views(self) -> tuple[View, ...]:
        """Give each page that asks, and below the same address the form that does."""
        pairs = (
            ("runs/{run}/stop", self.ask_stop, self.stop),
            ("runs/{run}/resume", self.ask_resume, self.resume),
            ("runs/{run}/again", self.ask_again, self.again),
            ("jobs/{job}", self.ask_begin, self.begin),
        )
        return tuple(
            view
            for path, asks, does in pairs
            for view in (View(path=path, answer=asks), View(path=path, answer=does, method="POST"))
        )

    def ask_stop(self, asked: Asked) -> Answer:
        """Say what stopping a run means."""
        run = self._run(asked)
        status = status_of(run)
        return _asks("Stop", run, status, can=status.state in OPEN_STATES, follows=_after_stop(status))

    def stop(self, asked: Asked) -> Answer:
        """Stop a run, see `CoordinatorDaemon.stop`."""
        run = self._run(asked)
        _require_sure(asked)
        self._office.control.stop(run.name)
        return Moved(to=f"runs/{run.name}")

    def ask_resume(self, asked: Asked) -> Answer:
        """Say what going on with a run means."""
        run = self._run(asked)
        status = status_of(run)
        return _asks("Resume", run, status, can=status.state in AGAIN, follows=_after_resume(status))

    def resume(self, asked: Asked) -> Answer:
        """Go on with a run, see `CoordinatorDaemon.resume`."""
        run = self._run(asked)
        _require_sure(asked)
        self._office.control.resume(run.name)
        return Moved(to=f"runs/{run.name}")

    def ask_begin(self, asked: Asked) -> Answer:
        """Show a job that lies ready."""
        return self._offered(f"Begin {asked.names['job']}", find_job(self._office.jobs, asked.names["job"]), back="")

    def begin(self, asked: Asked) -> Answer:
        """Begin a job that lies ready."""
        return self._begun(asked, find_job(self._office.jobs, asked.names["job"]))

    def ask_again(self, asked: Asked) -> Answer:
        """Show the job of a run, to begin a new run of it."""
        run = self._run(asked)
        return self._offered(f"Begin the job of {run.name} anew", run.job, back=f"runs/{run.name}")

    def again(self, asked: Asked) -> Answer:
        """Begin a new run of a run's job."""
        return self._begun(asked, self._run(asked).job)

    def _offered(self, title: str, folder: Path, *, back: str) -> Answer:
        offer = offer_of(folder, runs=self._office.runs, signed=self._office.charter())
        return Shown(template="job.html.j2", title=title, values={"offer": offer, "back": back})

    def _begun(self, asked: Asked, folder: Path) -> Answer:
        _require_sure(asked)
        mark = mark_of(folder, runs=self._office.runs)
        if not secrets.compare_digest(asked.form.get("mark", "").encode(), mark.encode()):
            raise InputError(
                "job",
                found="another one than the page showed, or a run that was begun since",
                expected="what was looked at",
                remedy="nothing was begun; look at the job again",
            )
        return Moved(to=f"runs/{self._office.control.run(folder.absolute()).run}")

    def _run(self, asked: Asked) -> DeployedRun:
        try:
            return find_run(self._office.runs, asked.names["run"])
        except InputError as err:
            raise NotThere("run") from err


def _asks(deed: str, run: DeployedRun, status: RunStatus, *, can: bool, follows: tuple[str, ...]) -> Shown:
    values = {
        "deed": deed,
        "run": run.name,
        "status": status,
        "reason": without_paths(status.reason),
        "can": can,
        "follows": follows,
    }
    return Shown(template="deed.html.j2", title=f"{deed} {run.name}", values=values)


def _require_sure(asked: Asked) -> None:
    """Insist on the box, which no script of ours ticks.

    Raises:
        InputError: it was not ticked; nothing was done.
    """
    if asked.form.get("sure") != "yes":
        raise InputError("confirmation", found="no word that what follows was read", expected="the box ticked")


def _after_stop(status: RunStatus) -> tuple[str, ...]:
    return (
        "A round that is under way is finished first, or runs into its time limit; what waits for sites ends at once.",
        f"Of {status.standing.rounds} rounds {status.standing.round} were begun. What sites have paid for is spent.",
        "The last checkpoint stays. The run can be resumed; until then no adapter is published.",
    )


def _after_resume(status: RunStatus) -> tuple[str, ...]:
    return (
        f"The run goes on from its checkpoint, with the same plan: {status.standing.rounds} rounds in all.",
        "Its sites are asked again whether they accept; each decides by its own policy, and pays from its own ledger.",
        "A round that was broken off is not played again: it is spent.",
        "What ended the run will end it again unless its cause is gone.",
    )
