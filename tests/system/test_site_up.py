"""`partsong site up` as a supervisor starts it, on a directory that the ceremony made; nobody answers at the port."""

import json
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from ceremony import PASSPHRASE
from visitor import Visitor, Words

from partsong.client.home.layout import SiteHome
from partsong.common.capsule import decode, look_around, make_capsule
from partsong.common.capsule_shelf import CapsuleShelf
from partsong.common.dashboard.keys import Key
from partsong.common.logs import FILE

Call = Callable[..., Any]


@pytest.fixture
def home(ceremony: Any, tmp_path: Path) -> SiteHome:
    """A site whose charter is in force, with records, and a coordinator that is down."""
    home: SiteHome = ceremony.site("lyon")
    records = tmp_path / "records.jsonl"
    records.write_text('{"prompt": "a", "completion": "b"}\n')
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    text = home.config.read_text().replace("localhost:7443", f"127.0.0.1:{port}")
    home.config.write_text(text.replace("/records.jsonl", str(records)))
    (home.path / "passphrase").write_bytes(PASSPHRASE)
    (home.path / "passphrase").chmod(0o600)
    return home


@contextmanager
def _up(
    command: list[str], home: SiteHome, *, arguments: tuple[str, ...] = (), **environment: str
) -> Iterator[subprocess.Popen[str]]:
    """A daemon that has said it is up; killed at the end if it still runs."""
    call = ["site", "up", "--dir", str(home.path), "--passphrase-file", str(home.path / "passphrase"), *arguments]
    with subprocess.Popen(
        [*command, *call], stderr=subprocess.PIPE, text=True, env={**os.environ, **environment}
    ) as daemon:
        try:
            assert daemon.stderr is not None
            said = daemon.stderr.readline()
            assert said.startswith("up: control "), said + daemon.stderr.read()
            yield daemon
        finally:
            daemon.kill()


def test_its_dashboard_opens_with_the_address_that_the_command_prints(
    home: SiteHome, command: list[str], call: Call
) -> None:
    """Off without a port; with one, the page shows what the daemon says, and a button acts on it."""
    with _up(command, home):
        without = call("site", "dashboard", "--dir", str(home.path))
    home.config.write_text(f"{home.config.read_text()}\ndashboard_port: 0\n")
    with _up(command, home):
        address = json.loads(call("site", "dashboard", "--dir", str(home.path), "--json").out)
        visitor = Visitor(Key(port=address["port"], key=address["url"].partition("#")[2])).log_in()
        words, paused = Words(visitor.page().text).text, visitor.act("pause")
        status = json.loads(call("site", "status", "--dir", str(home.path), "--json").out)

    assert (without.code, without.out) == (2, "")
    assert "dashboard_port" in without.err
    assert "NOT connected to 127.0.0.1" in words
    assert paused.status == 303
    assert status["state"] == "paused"


def test_a_site_comes_up_answers_and_ends_in_order(
    home: SiteHome, command: list[str], call: Call, tmp_path: Path
) -> None:
    """systemd hears ready and stopping; status says what is missing; torch is not loaded; SIGTERM ends it with 0."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(30)
        with _up(command, home, NOTIFY_SOCKET=str(tmp_path / "notify")) as daemon:
            heard = systemd.recv(100)
            status = json.loads(call("site", "status", "--dir", str(home.path), "--json").out)
            loaded = Path(f"/proc/{daemon.pid}/maps").read_text()
            paused = call("site", "pause", "--dir", str(home.path))
            second = subprocess.run(
                [*daemon.args],  # type: ignore[misc]
                capture_output=True,
                text=True,
                check=False,
            )
            daemon.send_signal(signal.SIGTERM)
            code = daemon.wait(timeout=30)
        assert (heard, systemd.recv(100)) == (b"READY=1", b"STOPPING=1")

    assert (status["site"], status["connected"], status["ready"]) == ("lyon", False, False)
    assert {check["name"]: check["ok"] for check in status["checks"]} == {
        "registered": False,
        "charter": True,
        "policy": True,
        "data": True,
    }
    assert "libtorch" not in loaded
    assert paused.code == 0
    assert (second.returncode, "daemon" in second.stderr) == (75, True)
    assert code == 0
    assert call("site", "status", "--dir", str(home.path)).code == 75


def test_a_killed_site_comes_up_again_as_it_was(home: SiteHome, command: list[str], call: Call) -> None:
    """kill -9 leaves a socket and locks; the next daemon takes the directory over, and is still paused."""
    with _up(command, home) as daemon:
        call("site", "pause", "--dir", str(home.path))
        daemon.kill()
        daemon.wait()
    assert home.socket.is_socket()

    with _up(command, home):
        status = json.loads(call("site", "status", "--dir", str(home.path), "--json").out)

    assert status["state"] == "paused"


def test_the_log_of_a_site_holds_facts_alone(home: SiteHome, command: list[str], call: Call) -> None:
    """An unreachable coordinator is logged by that word; no path of the site's is in any line."""
    with _up(command, home) as daemon:
        while "unreachable" not in _log(home):
            signal.sigtimedwait([], 0.05)
        daemon.send_signal(signal.SIGINT)
        daemon.wait(timeout=30)

    lines = [json.loads(line) for line in _log(home).splitlines()]
    assert "unreachable" in {line["event"] for line in lines}
    assert str(home.path) not in _log(home)


def test_the_log_may_go_to_stderr_for_a_container(home: SiteHome, command: list[str]) -> None:
    """Every line there is one of the log, after the one that says the daemon is up; no file is written."""
    with _up(command, home, arguments=("--log", "stderr")) as daemon:
        assert daemon.stderr is not None
        line = json.loads(daemon.stderr.readline())

    assert (line["event"], home.log.exists()) == ("unreachable", False)


def _log(home: SiteHome) -> str:
    file = home.log / FILE
    return file.read_text() if file.exists() else ""


@pytest.mark.parametrize("releases", [True, False])
def test_a_capsule_is_shown_here_and_written_out_only_where_settings_allow(
    home: SiteHome, call: Call, tmp_path: Path, *, releases: bool
) -> None:
    """Listing and showing need no leave; `--out` does."""
    capsule = make_capsule(ValueError("secret"), site="lyon", environment=look_around(tmp_path))
    CapsuleShelf(home.capsules).keep(capsule)
    if releases:
        home.config.write_text(home.config.read_text() + "release_capsules: true\n")
    out, where = tmp_path / "capsule.json", ("--dir", str(home.path))

    listed = call("site", "capsules", *where, "--json")
    shown = call("site", "capsules", capsule.id[:6], *where)
    written = call("site", "capsules", capsule.id, "--out", str(out), *where)

    assert json.loads(listed.out) == {"capsules": [capsule.id]}
    assert "ValueError" in shown.out
    if releases:
        assert (written.code, decode(out.read_bytes())) == (0, capsule)
    else:
        assert (written.code, "capsule_kept" in written.err, out.exists()) == (2, True, False)
