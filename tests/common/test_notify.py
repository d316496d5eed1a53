"""systemd is told over its own kind of socket."""

import os
import socket
from pathlib import Path

import pytest

from partsong.common.notify import notify, watchdog_interval_s


@pytest.mark.parametrize("kind", ["path", "abstract"])
def test_the_word_arrives(tmp_path: Path, kind: str) -> None:
    """A datagram socket at a path, or in the abstract namespace, gets each word as one datagram."""
    name = str(tmp_path / "notify") if kind == "path" else f"@partsong-{os.getpid()}-{tmp_path.name}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(f"\0{name[1:]}" if kind == "abstract" else name)
        systemd.settimeout(10)

        said = [notify(word, environment={"NOTIFY_SOCKET": name}) for word in ("READY=1", "WATCHDOG=1", "STOPPING=1")]

        assert said == [True] * 3
        assert [systemd.recv(100) for _ in said] == [b"READY=1", b"WATCHDOG=1", b"STOPPING=1"]


@pytest.mark.parametrize("environment", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "relative"}])
def test_without_systemd_nothing_is_sent(environment: dict[str, str]) -> None:
    """A daemon started by hand goes on."""

    assert not notify("READY=1", environment=environment)


def test_a_socket_that_is_gone_is_an_error(tmp_path: Path) -> None:
    """The unit would be killed for its silence; that must not pass unseen."""
    with pytest.raises(FileNotFoundError):
        notify("READY=1", environment={"NOTIFY_SOCKET": str(tmp_path / "gone")})


def test_a_supervisor_that_does_not_read_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its queue is full after a few words; then the call fails instead of keeping the daemon."""
    monkeypatch.setattr("partsong.common.notify._PATIENCE_S", 0.05)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))

        with pytest.raises(TimeoutError):
            _flood({"NOTIFY_SOCKET": str(tmp_path / "notify")})


def _flood(environment: dict[str, str]) -> None:
    for _ in range(10_000):
        notify("WATCHDOG=1", environment=environment)


@pytest.mark.parametrize(
    ("environment", "interval_s"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "7"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "8"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_the_watchdog_is_fed_twice_in_its_time(environment: dict[str, str], interval_s: float | None) -> None:
    """Half of the time that systemd waits, for the process that it watches."""

    assert watchdog_interval_s(environment, pid=7) == interval_s
