"""What a site's operator asks of the running daemon at the terminal."""

import json
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from quiet_daemons import LEDGER, PLANS, SITE, QuietSite

from partsong.client.home.layout import SiteHome
from partsong.common.build import to_tree
from partsong.common.control.server import site_server

Call = Callable[..., Any]


@pytest.fixture
def home(tmp_path: Path) -> SiteHome:
    """A site's directory."""
    return SiteHome(tmp_path / "site")


@pytest.fixture
def daemon(home: SiteHome) -> Iterator[QuietSite]:
    """A daemon that runs on it."""
    quiet = QuietSite()
    with site_server(home.socket, quiet):
        yield quiet


def test_status_says_where_the_daemon_stands(daemon: QuietSite, home: SiteHome, call: Call) -> None:
    """In words for a person; as one object with everything for a program."""
    words = call("site", "status", "--dir", str(home.path))
    found = call("site", "status", "--dir", str(home.path), "--json")

    assert (words.code, found.code, words.err, found.err) == (0, 0, "", "")
    assert "of five wards: running since" in words.out
    assert json.loads(found.out) == {
        **to_tree(SITE),
        "ready": True,
        "plans": to_tree(PLANS),
        "ledger": to_tree(LEDGER),
    }


def test_pause_and_resume_reach_the_daemon(daemon: QuietSite, home: SiteHome, call: Call) -> None:
    """The answer is the state that the daemon is in then."""
    paused = call("site", "pause", "--dir", str(home.path), "--json")
    between = daemon.now.state
    resumed = call("site", "resume", "--dir", str(home.path))

    assert (json.loads(paused.out)["state"], between) == ("paused", "paused")
    assert (resumed.out, daemon.now.state) == ("running\n", "running")


@pytest.mark.parametrize("what", ["status", "pause", "resume"])
def test_without_a_daemon_the_exit_code_is_75_with_a_remedy(what: str, home: SiteHome, call: Call) -> None:
    """stdout stays empty; what to do stands on stderr."""
    ran = call("site", what, "--dir", str(home.path), "--json")

    assert (ran.code, ran.out) == (75, "")
    assert "start it with `partsong site up`" in ran.err


def test_a_folder_open_to_others_is_a_refusal(daemon: QuietSite, home: SiteHome, call: Call) -> None:
    """Nothing is asked; the exit code is that of a rule."""
    home.socket.parent.chmod(0o755)

    ran = call("site", "status", "--dir", str(home.path))

    assert (ran.code, "control_folder" in ran.err) == (2, True)


@pytest.mark.parametrize("as_json", [True, False])
def test_watching_prints_events_as_they_come_until_the_daemon_stops(
    daemon: QuietSite, home: SiteHome, command: list[str], *, as_json: bool
) -> None:
    """Through a pipe: plain lines or objects, each at once, and exit code 0 at the end."""
    arguments = ["site", "status", "--watch", "--dir", str(home.path), *(["--json"] if as_json else [])]
    with subprocess.Popen(
        [*command, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as watching:
        while not daemon.feed.watched:
            threading.Event().wait(0.02)
        daemon.feed.tell("round_opened", round=4)
        assert watching.stdout is not None
        lines = []
        while not lines or "round_opened" not in lines[-1]:
            lines.append(watching.stdout.readline())

        daemon.feed.close()
        rest, errors = watching.communicate(timeout=30)

    assert (watching.returncode, rest, errors) == (0, "", "")
    if as_json:
        assert json.loads(lines[0])["site"] == SITE.site
        assert json.loads(lines[1])["round"] == 4
    else:
        assert lines[-1].endswith("round_opened round=4\n")


def test_a_daemon_of_a_broken_plan_list_says_so_by_type(daemon: QuietSite, home: SiteHome, call: Call) -> None:
    """What failed inside the daemon is named, its text is not shown."""
    daemon.failing = lambda: ValueError("fracture of the left wrist")

    ran = call("site", "status", "--dir", str(home.path))

    assert (ran.code, ran.out, "ValueError" in ran.err, "wrist" in ran.err) == (1, "", True, False)


def test_an_unready_site_is_shown_and_is_no_error(daemon: QuietSite, home: SiteHome, call: Call) -> None:
    """`status` answers the question it was asked; /readyz is for supervisors."""
    daemon.now = replace(SITE, state="starting", checks=(replace(SITE.checks[0], ok=False, reason="not enrolled"),))

    ran = call("site", "status", "--dir", str(home.path))

    assert (ran.code, "registered: not enrolled" in ran.out) == (0, True)
