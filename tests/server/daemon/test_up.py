"""The coordinator as a process: it says when it is ready, answers on its socket, and ends when it is told to."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from visitor import Visitor, Words

from partsong.common.adapters.adapter import AdapterLayout, TensorSpec
from partsong.common.config import ModelConfig
from partsong.common.control.client import CoordinatorClient
from partsong.common.control.loopback import LOOPBACK
from partsong.common.dashboard.keys import Key
from partsong.common.deployment import JobConfig
from partsong.common.errors import ConfigError
from partsong.server.daemon.job import BaseFacts, Job, write_job
from partsong.server.membership.home import CoordinatorHome

PASSPHRASE = "correct horse battery staple"
MOST_S = 5.0
"""Longest that the end of a daemon may take."""


def partsong(*words: str, home: Path) -> subprocess.CompletedProcess[str]:
    """Carry out a command of the coordinator."""
    command = [sys.executable, "-P", "-m", "partsong", "coordinator", *words, "--dir", str(home)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A coordinator's directory without sites."""
    secret = tmp_path / "passphrase"
    secret.write_text(PASSPHRASE)
    secret.chmod(0o600)
    folder = tmp_path / "home"
    made = partsong(
        "init", "--consortium", "trial", "--name", "localhost", "--port", "0", "--passphrase-file", str(secret),
        home=folder,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    with (folder / "coordinator.yaml").open("a") as settings:
        settings.write("dashboard_port: 0\n")
    return folder


class Up:
    """A running daemon."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.ears = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.ears.bind(str(home.parent / "notify"))
        self.ears.settimeout(60)
        environment = {**os.environ, "NOTIFY_SOCKET": str(home.parent / "notify"), "WATCHDOG_USEC": "4000000"}
        self.process = subprocess.Popen(
            [
                sys.executable, "-P", "-m", "partsong", "coordinator", "up", "--dir", str(home),
                "--passphrase-file", str(home.parent / "passphrase"),
            ],
            env=environment, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def heard(self) -> str:
        return self.ears.recv(100).decode()

    def end(self, number: int) -> float:
        """Send a signal; seconds until the process is gone."""
        began_s = time.monotonic()
        self.process.send_signal(number)
        self.process.wait(60)
        return time.monotonic() - began_s


@pytest.fixture
def up(home: Path) -> Iterator[Up]:
    """A daemon on that directory, ready."""
    running = Up(home)
    try:
        assert running.heard() == "READY=1"
        yield running
    finally:
        running.process.kill()
        running.process.communicate()
        running.ears.close()


def test_it_is_ready_alive_asked_and_ended(up: Up) -> None:
    """READY, WATCHDOG and STOPPING reach systemd; the socket answers; SIGTERM ends it in time and without an error."""
    with CoordinatorClient(CoordinatorHome(up.home).socket) as client:
        status = client.status()
        with pytest.raises(ConfigError, match="charter: found none"):
            client.run(_job(up.home.parent))
    second = partsong("up", "--passphrase-file", str(up.home.parent / "passphrase"), home=up.home)
    assert up.heard() == "WATCHDOG=1"

    took_s = up.end(signal.SIGTERM)

    assert (status.consortium, status.state, status.ready) == ("trial", "running", False)
    assert [check.name for check in status.checks if not check.ok] == ["charter"]
    assert status.port > 0
    assert second.returncode == 75, second.stderr
    assert up.process.returncode == 0
    assert took_s < MOST_S
    assert "STOPPING=1" in iter(up.heard, "")
    lines = [json.loads(line) for line in (up.home / "log" / "daemon.jsonl").read_text().splitlines()]
    assert {"ready", "stopping"} <= {line["event"] for line in lines}


def test_its_dashboard_opens_with_the_address_that_the_command_prints(up: Up) -> None:
    """While a page listens, SIGTERM still ends the daemon in time; then the command says that none runs."""
    address = json.loads(partsong("dashboard", "--json", home=up.home).stdout)
    key = Key(port=address["port"], key=address["url"].partition("#")[2])
    visitor = Visitor(key).log_in()
    words = Words(visitor.page().text).text
    events = http.client.HTTPConnection(LOOPBACK, key.port, timeout=30)
    events.request("GET", f"{visitor.base}events", headers={"Cookie": visitor.cookie})
    stream = events.getresponse()
    first = stream.readline()

    took_s = up.end(signal.SIGTERM)

    stream.read()
    events.close()
    after = partsong("dashboard", home=up.home)
    assert "no charter that all sites have signed" in words
    assert first == b"retry: 2000\n"
    assert took_s < MOST_S
    assert (after.returncode, after.stdout) == (75, "")
    assert not (up.home / "control" / "dashboard.json").exists()


def test_without_a_daemon_status_reads_the_files(home: Path) -> None:
    """And says that none runs; what only a daemon can do is refused as something to try again."""
    status, stop = partsong("status", "--json", home=home), partsong("stop", "some-run", home=home)

    assert json.loads(status.stdout) == {"daemon": None, "runs": []}
    assert (stop.returncode, "no daemon runs" in stop.stderr) == (75, True)


def _job(folder: Path) -> Path:
    layout = AdapterLayout(
        tensors=(TensorSpec(name="A", shape=(2,), trained=False), TensorSpec(name="B", shape=(2,), trained=True))
    )
    base = BaseFacts(name="tiny", sha256="b" * 64, lora={"r": 1}, layout=layout, peft={"r": 1})
    zeros = np.zeros(2, np.float32)
    config = JobConfig(model=ModelConfig(source="x"))
    write_job(folder / "job", Job(config=config, base=base, start_P=zeros, frozen_F=zeros))
    return folder / "job"
