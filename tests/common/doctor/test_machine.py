"""Disk, memory, ports and switches: the fault is made where a test can make it."""

import os
import resource
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partsong.common.doctor import machine
from partsong.common.doctor.machine import GIB, MIB, Memory


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """The kernel refuses more, as a quota does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_takes_nothing_is_full(tmp_path: Path) -> None:
    """The kernel's refusal is a real one; nothing is left behind."""
    with largest_file(1000):
        seen = machine.check_disk(tmp_path, needed_bytes=0)

    assert seen.state == "fail"
    assert "megabyte" in seen.found
    assert list(tmp_path.iterdir()) == []


def test_room_is_compared_with_what_is_wanted(tmp_path: Path) -> None:
    """Enough for one run and not for two is a warning."""
    free = os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize

    assert machine.check_disk(tmp_path, needed_bytes=free // 4).state == "ok"
    assert machine.check_disk(tmp_path, needed_bytes=free * 3 // 4).state == "warn"
    assert machine.check_disk(tmp_path, needed_bytes=free * 2).state == "fail"


def test_a_folder_that_is_not_there_cannot_be_written(tmp_path: Path) -> None:
    """It is told from a full disk."""
    seen = machine.check_disk(tmp_path / "gone", needed_bytes=0)

    assert "nothing can be written" in seen.found


def test_memory_is_what_the_control_group_leaves(tmp_path: Path) -> None:
    """A container's limit counts where it is lower than the machine's memory."""
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "meminfo").write_text("MemTotal: 99 kB\nMemAvailable:   8388608 kB\n")
    (tmp_path / "proc" / "self" / "cgroup").write_text("0::/box\n")
    box = tmp_path / "cgroup" / "box"
    box.mkdir(parents=True)
    (box / "memory.current").write_text(str(1 * GIB))

    read = {"proc": tmp_path / "proc", "cgroup": tmp_path / "cgroup"}
    (box / "memory.max").write_text(f"{3 * GIB}\n")
    inside = machine.read_memory(**read)
    (box / "memory.max").write_text("max\n")
    outside = machine.read_memory(**read)

    assert (inside.available, outside.available) == (2 * GIB, 8 * GIB)
    assert "control group" in inside.limited_by


@pytest.mark.parametrize(("available", "state"), [(99, "fail"), (120, "warn"), (150, "ok")])
def test_memory_needs_some_room_above_the_weights(available: int, state: str) -> None:
    """Half as much again is comfortable."""
    memory = Memory(available=available, limited_by="this machine")

    assert machine.check_memory(memory, needed_bytes=100, for_what="it").state == state


@settings(deadline=None)
@given(st.integers(0, 1 << 40), st.integers(1, 1 << 40))
def test_less_memory_than_wanted_never_passes(available: int, needed: int) -> None:
    """For every pair of numbers."""
    seen = machine.check_memory(Memory(available=available, limited_by="x"), needed_bytes=needed, for_what="it")

    assert (seen.state == "fail") == (available < needed)


def test_shared_memory_is_looked_for(tmp_path: Path) -> None:
    """A machine without it gets a warning, not a failure."""
    assert machine.check_shared_memory(tmp_path).state == "ok"
    assert machine.check_shared_memory(tmp_path / "none").state == "warn"


@pytest.mark.parametrize(("soft", "state"), [(255, "fail"), (256, "warn"), (1023, "warn"), (1024, "ok")])
def test_open_files_have_two_borders(soft: int, state: str) -> None:
    """Beside each border stands its neighbour."""
    assert machine.check_files(soft, 4096).state == state


def test_each_switch_has_to_be_set() -> None:
    """A value that somebody changed is named, not shown."""
    wanted = {"A_TELEMETRY": "0", "B_OFFLINE": "1"}

    assert machine.check_switches({"A_TELEMETRY": "0", "B_OFFLINE": "1"}, wanted).state == "ok"
    wrong = machine.check_switches({"A_TELEMETRY": "1", "B_OFFLINE": "1"}, wanted)
    assert (wrong.state, wrong.found) == ("fail", "A_TELEMETRY not set")


DAEMON = """
import socket, sys
control = socket.socket(socket.AF_UNIX); control.bind(sys.argv[1]); control.listen()
port = socket.socket(getattr(socket, sys.argv[3])); port.bind((sys.argv[2], 0)); port.listen()
print(port.getsockname()[1], flush=True)
sys.stdin.read()
control.close(); port.close()
"""


@contextmanager
def daemon(control: Path, address: str, family: str = "AF_INET") -> Iterator[int]:
    """Another process that listens on a control socket and on a port."""
    with subprocess.Popen(
        [sys.executable, "-c", DAEMON, str(control), address, family], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        yield int(process.stdout.readline())
        process.stdin.close()


def test_a_port_beyond_loopback_is_found(tmp_path: Path) -> None:
    """The daemon is found by its control socket, and its ports by the kernel's tables."""
    control = tmp_path / "d.sock"
    with daemon(control, "0.0.0.0") as port:
        wild = machine.check_ports(control)
        meant = machine.check_ports(control, allowed=(port,))

    assert wild.state == "fail"
    assert f"0.0.0.0:{port}" in wild.found
    assert meant.state == "ok"


@pytest.mark.parametrize(("address", "family"), [("127.0.0.1", "AF_INET"), ("::1", "AF_INET6")])
def test_loopback_is_nobody_elses_business(tmp_path: Path, address: str, family: str) -> None:
    """Both families of addresses are read."""
    if family == "AF_INET6" and not socket.has_dualstack_ipv6():
        pytest.skip("no IPv6 here")
    control = tmp_path / "d.sock"
    with daemon(control, address, family) as port:
        listening = machine.listening_of(machine.daemon_pid(control))
        seen = machine.check_ports(control)

    assert seen.state == "ok"
    assert [(one.address, one.port) for one in listening] == [(address, port)]


def test_without_a_daemon_there_is_nothing_to_look_at(tmp_path: Path) -> None:
    """Neither a missing socket nor one that was left behind is a daemon."""
    control = tmp_path / "d.sock"
    assert machine.check_ports(control).state == "skipped"
    with daemon(control, "127.0.0.1"):
        pass

    assert control.exists()
    assert machine.check_ports(control).state == "skipped"


def test_what_a_megabyte_is() -> None:
    """Units of findings are binary."""
    assert (MIB, GIB) == (1024**2, 1024**3)
