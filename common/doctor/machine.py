"""The machine under a daemon: disk, memory, shared memory, descriptors, ports, switches."""

from __future__ import annotations

import ipaddress
import os
import re
import shutil
import socket
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from partsong.common.doctor.finding import Seen, fail, ok, skipped, warn
from partsong.common.files import is_full

MIB, GIB = 1 << 20, 1 << 30
_TRIAL_BYTES = MIB
SHARED_MEMORY_BYTES = 64 * MIB
"""What container engines give by default."""
FEWEST_FILES, COMFORTABLE_FILES = 256, 1024
_LISTENING = "0A"
"""State of a listening socket in /proc/net/tcp."""


def check_disk(folder: Path, *, needed_bytes: int) -> Seen:
    """Say whether the directory's file system has room, by asking it and by writing a file.

    Args:
        folder: of the deployment.
        needed_bytes: for journals, checkpoints and adapters to come.
    """
    more = "free space, raise the quota, or move the directory to a larger file system"
    trial = folder / f".doctor-{os.getpid()}"
    try:
        with trial.open("wb") as out:
            out.write(bytes(_TRIAL_BYTES))
            out.flush()
            os.fsync(out.fileno())
        free = shutil.disk_usage(folder).free
    except OSError as err:
        if is_full(err):
            return fail("not even a megabyte can be written", cause="the disk or a quota is full", remedy=more)
        return fail(
            f"nothing can be written ({err.strerror})",
            cause="the directory is not this user's, or mounted read-only",
            remedy="run doctor as the user of the daemon; with systemd, name the directory in ReadWritePaths",
        )
    finally:
        trial.unlink(missing_ok=True)
    found = f"{free / GIB:.1f} GiB free, {needed_bytes / GIB:.1f} GiB wanted"
    if free < needed_bytes:
        return fail(found, cause="journals and checkpoints of a run will not fit", remedy=more)
    if free < 2 * needed_bytes:
        return warn(found, cause="a second run may not fit", remedy=more)
    return ok(found)


@dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    """What a process may still take [bytes]."""

    available: int
    limited_by: str
    """`this machine` or the control group's file."""


def read_memory(*, proc: Path = Path("/proc"), cgroup: Path = Path("/sys/fs/cgroup")) -> Memory:
    """Read what is available, under the limit of this process's control group where that is lower."""
    text = (proc / "meminfo").read_text()
    found = re.search(r"^MemAvailable:\s+(\d+) kB", text, re.MULTILINE)
    memory = Memory(available=int(found[1]) * 1024 if found else 0, limited_by="this machine")
    try:
        own = (proc / "self" / "cgroup").read_text().strip().rpartition("::")[2].lstrip("/")
        limit = (cgroup / own / "memory.max").read_text().strip()
        used = int((cgroup / own / "memory.current").read_text())
    except (OSError, ValueError):
        return memory  # no control groups of version 2, or none of our own
    if limit.isdigit() and int(limit) - used < memory.available:
        return Memory(available=max(0, int(limit) - used), limited_by="memory.max of the control group")
    return memory


def check_memory(memory: Memory, *, needed_bytes: int, for_what: str) -> Seen:
    """Compare what is available with what is needed."""
    found = f"{memory.available / GIB:.1f} GiB available ({memory.limited_by}), {needed_bytes / GIB:.1f} GiB wanted"
    remedy = "stop other programs, raise MemoryMax or the container's limit, or take a smaller base model"
    if memory.available < needed_bytes:
        return fail(found, cause=f"{for_what} will not fit; the kernel would end the daemon", remedy=remedy)
    if memory.available < 1.5 * needed_bytes:
        return warn(found, cause=f"{for_what} fits, with little left for activations and updates", remedy=remedy)
    return ok(found)


def check_shared_memory(folder: Path = Path("/dev/shm")) -> Seen:  # noqa: S108 - it is that file system that is asked
    """Say whether /dev/shm is there and no smaller than what containers get."""
    remedy = "start the container with --shm-size=1g (compose: shm_size)"
    if not folder.is_dir():
        return warn(f"no {folder}", cause="libraries that share memory between processes fail late", remedy=remedy)
    size = shutil.disk_usage(folder).total
    if size < SHARED_MEMORY_BYTES:
        return warn(f"{size / MIB:.0f} MiB", cause="GPU libraries share memory through it", remedy=remedy)
    return ok(f"{size / MIB:.0f} MiB")


def check_files(soft: int, hard: int) -> Seen:
    """Judge `ulimit -n`: connections, journals and the ledger are open at once."""
    found = f"{soft} open files (at most {hard})"
    remedy = "set LimitNOFILE=4096 in the unit, or `ulimit -n 4096`"
    if soft < FEWEST_FILES:
        return fail(found, cause="connections will fail when sites come back all at once", remedy=remedy)
    if soft < COMFORTABLE_FILES:
        return warn(found, cause="enough for a few sites only", remedy=remedy)
    return ok(found)


def check_switches(environment: Mapping[str, str], wanted: Mapping[str, str]) -> Seen:
    """Say whether telemetry, update checks and downloads of the libraries are switched off here."""
    wrong = sorted(name for name, value in wanted.items() if environment.get(name) != value)
    if wrong:
        return fail(
            f"{', '.join(wrong)} not set",
            cause="libraries would report to their makers or fetch files",
            remedy="start through `partsong`, which sets them before it imports anything",
        )
    return ok(f"{len(wanted)} switches are off")


@dataclass(frozen=True, kw_only=True, slots=True)
class Listening:
    """A TCP port that a process listens on."""

    address: str
    port: int

    @property
    def is_local(self) -> bool:
        """Nobody but this machine reaches it."""
        return ipaddress.ip_address(self.address).is_loopback

    def __str__(self) -> str:
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"


def daemon_pid(control: Path) -> int | None:
    """Ask the kernel who listens on the control socket; None: nobody."""
    with socket.socket(socket.AF_UNIX) as asking:
        try:
            asking.settimeout(1)
            asking.connect(str(control))
        except OSError:
            return None
        raw = asking.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", raw)[0])


def listening_of(pid: int, *, proc: Path = Path("/proc")) -> tuple[Listening, ...]:
    """List the ports of a process.

    Raises:
        PermissionError: it is another user's.
    """
    inodes = set()
    for file in (proc / str(pid) / "fd").iterdir():
        try:
            target = file.readlink().name
        except FileNotFoundError:
            continue  # closed meanwhile
        if inode := re.fullmatch(r"socket:\[(\d+)\]", target):
            inodes.add(inode[1])
    lines = [line.split() for name in ("tcp", "tcp6") for line in _lines(proc / str(pid) / "net" / name)]
    return tuple(_listening(words[1]) for words in lines if words[3] == _LISTENING and words[9] in inodes)


def check_ports(control: Path, *, allowed: Iterable[int] = (), proc: Path = Path("/proc")) -> Seen:
    """Say whether the running daemon can be reached from another machine.

    Args:
        control: its socket.
        allowed: ports that are meant to be reached: the coordinator's one.
        proc: the kernel's view of processes.
    """
    pid = daemon_pid(control)
    if pid is None:
        return skipped("no daemon runs in this directory")
    try:
        ports = listening_of(pid, proc=proc)
    except PermissionError:
        return skipped(f"the daemon (process {pid}) is another user's; run doctor as that user")
    allowed = set(allowed)
    open_ports = [port for port in ports if not port.is_local and port.port not in allowed]
    if open_ports:
        return fail(
            f"the daemon listens on {', '.join(map(str, open_ports))}",
            cause="other machines can reach a port that is for this one",
            remedy="stop the daemon, and find out what opened it: partsong opens loopback and its socket only",
        )
    return ok(f"{len(ports)} ports, none of them reachable that should not be")


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text().splitlines()[1:]
    except FileNotFoundError:
        return []  # a kernel without IPv6


def _listening(local: str) -> Listening:
    """Read an address as the kernel prints it: 32-bit words in hex, each in the machine's byte order."""
    address, _, port = local.partition(":")
    words = [int(address[i : i + 8], 16) for i in range(0, len(address), 8)]
    packed = b"".join(struct.pack("=I", word) for word in words)
    ip = ipaddress.ip_address(packed)
    mapped = getattr(ip, "ipv4_mapped", None)
    return Listening(address=str(mapped or ip), port=int(port, 16))
