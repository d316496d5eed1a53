"""What the coordinator's daemon tells: on its socket, and in the files of its runs."""

import json
from collections.abc import Callable
from pathlib import Path

from office import NAMES, Office
from typer.testing import CliRunner

from partsong.common.errors import DataError
from partsong.server.daemon.control import CoordinatorControl
from partsong.simulations.cli import app

Make = Callable[..., Office]


def test_control_says_how_daemon_and_runs_stand(office: Make) -> None:
    """What commands and dashboards see, from any thread."""
    made = office()
    daemon = made.daemon()
    control = CoordinatorControl(
        daemon, made.home, made.hospitals, consortium="trial", port=lambda: 7443, charter=lambda: made.signed
    )  # fmt: skip
    with control.feed.watch() as watcher:
        begun = control.run(made.job())
        daemon.step()
        told = [event.event for event in iter(lambda: watcher.next(timeout_s=0), None)]
    status, (run,) = control.status(), control.runs()

    assert (begun.state, begun.standing.round) == ("waiting", 0)
    assert (run.state, run.standing.round, run.standing.rounds, run.standing.phase) == ("finished", 3, 3, "")
    assert [(s.site, s.state, s.rounds) for s in run.sites] == [(name, "reported", 3) for name in NAMES]
    assert (status.ready, status.connected, status.members) == (True, NAMES, NAMES)
    assert {"run_state", "round_opened", "phase_began", "site_reported", "round_summed", "adapter_stored"} <= set(told)
    made.signed = None
    assert [check.name for check in control.readiness() if not check.ok] == ["charter"]


def test_explain_reads_a_run_s_directory_and_nothing_else(office: Make, tmp_path: Path) -> None:
    """As words and as JSON; any other folder is refused by name."""
    run = office().played()
    call = CliRunner().invoke

    words, tree = call(app, ["explain", str(run.path)]), call(app, ["explain", str(run.path), "--json"])
    other = call(app, ["explain", str(tmp_path)])

    assert words.output.startswith(f"{run.name}: finished\nround 1: a, b, c, d, e contributed\n")
    assert "  c: reported; in the sums of rounds 1, 2, 3; found the adapter right; has stored it\n" in words.output
    found = json.loads(tree.output)
    assert (found["state"], [site["site"] for site in found["sites"]]) == ("finished", list(NAMES))
    assert isinstance(other.exception, DataError)
