"""Around a daemon: its log, its doors and its supervisor, up together and gone together."""

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from quiet_daemons import SITE, QuietSite

from partsong.common.control.client import NoDaemon, SiteClient
from partsong.common.control.hosting import hosted, stopped_by_signals
from partsong.common.control.server import site_server
from partsong.common.control.surfaces import SiteStatus
from partsong.common.errors import TryAgain
from partsong.common.logs import FILE


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A site's directory."""
    return tmp_path / "site"


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[socket.socket]:
    """Where a supervisor listens."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind(str(tmp_path / "notify"))
        end.settimeout(20)
        yield end


def test_everything_is_up_inside_and_gone_afterwards(home: Path) -> None:
    """The socket and the HTTP port answer; what watchers are told is in the log, steps only at level debug."""
    quiet, path = QuietSite(), home / "control" / "daemon.sock"

    with (
        hosted(site_server(path, quiet), quiet, log_folder=home / "log", health_port=0, environment={}),
        SiteClient(path) as client,
    ):
        seen = client.status()
        quiet.feed.tell("round_opened", round=1)
        quiet.feed.tell("step", step=1, steps=4)
        quiet.feed.tell("round_summed", round=1, answered=3)

    lines = [json.loads(line) for line in (home / "log" / FILE).read_text().splitlines()]
    assert seen == SITE
    assert [(line["event"], line["round"]) for line in lines] == [("round_opened", 1), ("round_summed", 1)]
    with pytest.raises(NoDaemon), SiteClient(path):
        pass


def test_a_second_daemon_brings_nothing_up(home: Path) -> None:
    """It is refused, and the first one's log and socket stay its own."""
    path = home / "control" / "daemon.sock"
    first, second = QuietSite(), QuietSite()
    with (
        hosted(site_server(path, first), first, log_folder=None, health_port=None, environment={}),
        SiteClient(path) as client,
    ):
        with (
            pytest.raises(TryAgain, match="another daemon"),
            hosted(site_server(path, second), second, log_folder=None, health_port=None, environment={}),
        ):
            pass

        assert client.status() == SITE


def test_a_supervisor_hears_ready_alive_and_stopping(home: Path, systemd: socket.socket) -> None:
    """In this order; the daemon is asked how it is before it is called alive."""
    quiet = QuietSite()
    server = site_server(home / "control" / "daemon.sock", quiet)
    environment = {"NOTIFY_SOCKET": systemd.getsockname(), "WATCHDOG_USEC": "200000"}

    with hosted(server, quiet, log_folder=home / "log", health_port=None, environment=environment):
        heard = [systemd.recv(100), systemd.recv(100), systemd.recv(100)]
    while (last := systemd.recv(100)) == b"WATCHDOG=1":
        pass

    assert heard == [b"READY=1", b"WATCHDOG=1", b"WATCHDOG=1"]
    assert last == b"STOPPING=1"


@dataclass
class _Sick(QuietSite):
    """Answers at first; then not any more."""

    left: int = 1

    def status(self) -> SiteStatus:
        self.left -= 1
        if self.left < 0:
            raise ValueError
        return SITE


def test_a_daemon_that_cannot_say_how_it_is_is_not_called_alive(home: Path, systemd: socket.socket) -> None:
    """Its silence lets the supervisor start it anew."""
    sick = _Sick(left=3)
    server = site_server(home / "control" / "daemon.sock", sick)
    environment = {"NOTIFY_SOCKET": systemd.getsockname(), "WATCHDOG_USEC": "2000"}

    with hosted(server, sick, log_folder=home / "log", health_port=None, environment=environment):
        while sick.left > -20:
            os.sched_yield()
    heard = []
    while (word := systemd.recv(100)) != b"STOPPING=1":
        heard.append(word)

    assert heard == [b"READY=1", b"WATCHDOG=1", b"WATCHDOG=1"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_asks_and_the_second_ends(number: signal.Signals) -> None:
    """A daemon that does not end in order can still be ended."""
    program = textwrap.dedent("""
        import sys, signal, threading
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        from partsong.common.control.hosting import stopped_by_signals
        stop = threading.Event()
        with stopped_by_signals(stop):
            print("up", flush=True)
            stop.wait()
            print("stopping", flush=True)
            sys.stdin.read()
    """)
    with subprocess.Popen(
        [sys.executable, "-P", "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as daemon:
        assert daemon.stdout is not None
        assert daemon.stdout.readline() == "up\n"

        daemon.send_signal(number)
        first = daemon.stdout.readline()
        daemon.send_signal(number)

        assert (first, daemon.wait(timeout=20)) == ("stopping\n", -number)


def test_the_signals_mean_what_they_meant_afterwards() -> None:
    """Handlers of before are back, whether or not a signal came."""

    def handlers() -> list[Callable[..., object] | int | None]:
        return [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]

    before = handlers()

    stop = threading.Event()
    with stopped_by_signals(stop):
        inside = handlers()

    assert handlers() == before
    assert inside != before
    assert not stop.is_set()
