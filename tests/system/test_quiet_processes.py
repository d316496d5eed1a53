"""The daemons' processes call nobody but whom they are configured to: no telemetry, no update check, no install."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ceremony import PASSPHRASE, Ceremony

WATCHED = """
import json, os, sys
out = open(sys.argv.pop(1), "a", buffering=1)
seen = ("socket.connect", "socket.getaddrinfo", "subprocess.Popen", "os.posix_spawn", "os.fork", "os.exec", "os.system")
def hook(event, args):
    if event == "import" and args[0] in ("flwr", "huggingface_hub"):
        out.write(json.dumps(["import", args[0], {n: os.environ.get(n) for n in json.loads(os.environ["NAMES"])}]) + "\\n")
    elif event in seen:
        where = args[1] if event == "socket.connect" else args[:2]
        out.write(json.dumps([event, repr(where)]) + "\\n")
sys.addaudithook(hook)
"""
DAEMON = "from partsong.simulations.cli import main; main()"
SWITCHES = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "HF_HUB_OFFLINE": "1"}


class Watched:
    """A process that notes every connection, every name it looks up and every process it starts."""

    def __init__(self, folder: Path, code: str, *words: str) -> None:
        self.file = folder / "seen.jsonl"
        secret = folder / "secret"
        secret.write_bytes(PASSPHRASE)
        secret.chmod(0o600)
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("FLWR_", "HF_"))}
        more = {"NAMES": json.dumps(list(SWITCHES)), "PARTSONG_PASSPHRASE_FILE": str(secret)}
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", WATCHED + code, str(self.file), *words],
            env=clean | more, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def until_said(self, word: str) -> None:
        assert self.process.stderr is not None
        said = self.process.stderr.readline()
        assert said.startswith(word), said + self.process.stderr.read()

    def ended(self) -> list[list[Any]]:
        """End it in order; gives what it did."""
        self.process.send_signal(signal.SIGTERM)
        self.process.communicate(timeout=60)
        return [json.loads(line) for line in self.file.read_text().splitlines()]


def elsewhere(seen: list[list[Any]], *, allowed: Callable[[str], bool]) -> list[list[Any]]:
    """What was done that is neither an import nor allowed."""
    return [line for line in seen if line[0] != "import" and not allowed(line[1])]


def test_a_site_calls_its_coordinator_and_nobody_else(ceremony: Ceremony, tmp_path: Path) -> None:
    """From the first import to the end; the switches stand before Flower is imported."""
    home = ceremony.site("lyon")
    (tmp_path / "records.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    with socket.create_server(("127.0.0.1", 0)) as coordinator:
        port = coordinator.getsockname()[1]
        coordinator.settimeout(60)
        text = home.config.read_text().replace("localhost:7443", f"127.0.0.1:{port}")
        home.config.write_text(text.replace("/records.jsonl", str(tmp_path / "records.jsonl")))
        site = Watched(tmp_path, DAEMON, "site", "up", "--dir", str(home.path))
        site.until_said("up:")
        coordinator.accept()[0].close()
        seen = site.ended()

    def allowed(what: str) -> bool:
        return f"'127.0.0.1', {port}" in what or "daemon.sock" in what

    assert any(f"'127.0.0.1', {port}" in line[1] for line in seen if line[0] == "socket.connect")
    assert elsewhere(seen, allowed=allowed) == []
    assert [line[2] for line in seen if line[0] == "import" and line[1] == "flwr"] == [SWITCHES]


def test_a_coordinator_calls_nobody(ceremony: Ceremony, tmp_path: Path) -> None:
    """It is called."""
    ceremony.home.config.write_text(ceremony.home.config.read_text() + "port: 0\n")
    coordinator = Watched(tmp_path, DAEMON, "coordinator", "up", "--dir", str(ceremony.home.path))
    coordinator.until_said("ready:")

    seen = coordinator.ended()

    assert elsewhere(seen, allowed=lambda what: "daemon.sock" in what) == []
    assert [line[2] for line in seen if line[0] == "import" and line[1] == "flwr"] == [SWITCHES]


@pytest.mark.parametrize(
    "call",
    ["import socket; socket.socket().connect_ex(('127.0.0.2', 9))", "import subprocess; subprocess.run(['true'])"],
    ids=["connection", "process"],
)
def test_a_call_elsewhere_would_be_seen(tmp_path: Path, call: str) -> None:
    """The control."""
    watched = Watched(tmp_path, call)
    watched.process.wait(60)

    assert elsewhere(watched.ended(), allowed=lambda what: "daemon.sock" in what)


def test_without_the_switches_flower_would_report_home(tmp_path: Path) -> None:
    """The control: imported by itself, Flower has telemetry on."""
    code = "from flwr.supercore import telemetry; sys.exit(int(telemetry.FLWR_TELEMETRY_ENABLED))"
    watched = Watched(tmp_path, code)

    assert watched.process.wait(60) == 1
    assert [line[2] for line in watched.ended() if line[0] == "import"] == [dict.fromkeys(SWITCHES)]
