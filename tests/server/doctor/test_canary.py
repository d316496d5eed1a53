"""The canary run is asked for over the daemon's calls, and judged by how it ended."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from partsong.common.control.client import NoDaemon
from partsong.common.control.surfaces import Charter, Check, CoordinatorStatus, RunState, RunStatus, SiteInRun, Standing
from partsong.common.doctor.canary import CanaryResult, LastCanary, check_canary, check_last
from partsong.common.doctor.running import check_daemon
from partsong.server.doctor.canary import ask_canary

WAITING = RunStatus(
    run="canary-1",
    study="canary",
    state="waiting",
    standing=Standing(round=0, rounds=1, phase="propose"),
    sites=tuple(SiteInRun(site=name, state="accepted", rounds=0) for name in ("north", "south")),
)
STATUS = CoordinatorStatus(
    consortium="lungs",
    version="1.0",
    state="running",
    port=7443,
    since_ms=0,
    charter=Charter(version=1, sha256="0" * 64),
    checks=(Check(name="charter", ok=True),),
    connected=(),
    members=("north", "south", "west"),
)


class Daemon:
    """A daemon whose run takes two looks."""

    def __init__(self, end: RunState, reason: str = "") -> None:
        self.jobs: list[Path] = []
        done = tuple(replace(site, rounds=int(end == "finished")) for site in WAITING.sites)
        self._states: Iterator[RunStatus] = iter(
            [replace(WAITING, state="running"), replace(WAITING, state=end, reason=reason, sites=done)]
        )

    def status(self) -> CoordinatorStatus:
        return STATUS

    def run(self, job: Path) -> RunStatus:
        self.jobs.append(job)
        return WAITING

    def runs(self) -> tuple[RunStatus, ...]:
        return (replace(WAITING, run="another"), next(self._states))


def test_the_job_is_started_once_and_waited_for() -> None:
    """Two looks, half a second apart; the site that took no part is named."""
    daemon, pauses = Daemon("finished"), []

    result = ask_canary(daemon, Path("/job"), clock=map(float, count()).__next__, pause=pauses.append)

    assert (daemon.jobs, pauses) == ([Path("/job")], [0.5, 0.5])
    assert (result.answered, result.missing, result.seconds) == (("north", "south"), ("west",), 1.0)
    assert check_canary(lambda: result).state == "warn"


def test_a_run_that_failed_is_a_failure_with_its_reason() -> None:
    """The remedy names the command that says more."""
    result = ask_canary(Daemon("failed", "floor not met"), Path("/job"), clock=lambda: 0.0, pause=lambda _: None)

    seen = check_canary(lambda: result)
    assert (seen.state, seen.found) == ("fail", "run canary-1: floor not met")
    assert "partsong explain runs/canary-1" in seen.remedy


def test_all_sites_in_the_sum_is_fine() -> None:
    """The other end."""
    whole = CanaryResult(run="r", finished=True, reason="", answered=("a", "b"), missing=(), seconds=1.5)

    assert check_canary(lambda: whole).found == "2 sites in 1.5 s: a, b"


HINTS: dict[str, Any] = {"have_one": "ask for one", "more": "look there"}


def test_the_newest_canary_is_reported_where_none_is_carried_out() -> None:
    """None yet, right, wrong with its reason, and one without an end: each with what to do."""
    right = LastCanary(run="c-1", state="right", at_ms=0)

    none = check_last(None, now_ms=0, **HINTS)
    fine = check_last(right, now_ms=3 * 3_600_000, **HINTS)
    wrong = check_last(replace(right, state="wrong", reason="sites missing: b"), now_ms=119_000, **HINTS)
    open_ = check_last(replace(right, state="open"), now_ms=3 * 86_400_000, **HINTS)

    assert (none.state, none.found) == ("skipped", "none was carried out yet: ask for one")
    assert (fine.state, fine.found) == ("ok", "run c-1, 3 hours ago: the sum was right")
    assert (wrong.state, wrong.found) == ("fail", "run c-1, 1 minutes ago: sites missing: b")
    assert (open_.state, open_.found) == ("warn", "run c-1, 3 days ago: it has not ended here")
    assert all("look there" in seen.remedy for seen in (wrong, open_))


def silent() -> CoordinatorStatus:
    raise NoDaemon("coordinator")


@pytest.mark.parametrize(
    ("status", "version", "state"),
    [
        (STATUS, "1.0", "ok"),
        (STATUS, "1.1", "warn"),
        (replace(STATUS, checks=(Check(name="data", ok=False, reason="no file"),)), "1.0", "fail"),
    ],
)
def test_a_daemon_is_ready_current_or_says_why_not(status: CoordinatorStatus, version: str, state: str) -> None:
    """Not ready is worse than old."""
    assert check_daemon(lambda: status, version=version).state == state


def test_no_daemon_is_no_failure() -> None:
    """Doctor is run before the first start, too."""
    assert check_daemon(silent, version="1.0").state == "skipped"
