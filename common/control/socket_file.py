"""Where a daemon's Unix socket lies, and who may reach it.

Covers: on Linux the kernel lets nobody connect who cannot search the socket's folder and write to the socket. The
    folder is the owner's with mode 0700 and no link, the socket has mode 0600; both are looked at when a daemon starts,
    at each of its calls, and before a command connects. Beside that the daemon asks the kernel for the user id behind
    each connection that is open (`foreign_users`), and a command for that of who listens (`listener`): the owner's or
    root's. One daemon at a time holds a lock, which dies with it, so a socket that a killed one has left is replaced.
Does not cover: another program of the same user, or of root; they own the keys anyway. A connection that another user
    opened and closed while the owner had given the folder wider rights by hand, if it is gone when the daemon looks.
    Systems without SO_PEERCRED (macOS): there the modes stand alone.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from partsong.common.errors import Refused, TryAgain
from partsong.common.files import make_folder

LOCK = "daemon.lock"
_PEERCRED = getattr(socket, "SO_PEERCRED", None)
_DESCRIPTORS = Path("/proc/self/fd")


@dataclass(frozen=True, kw_only=True, slots=True)
class SocketName:
    """A socket's name for bind and connect: short enough at any depth, and in the folder that was checked."""

    path: str
    folder: Path
    owner: int
    """User id that owns the folder."""


@contextlib.contextmanager
def opened_folder(path: Path) -> Iterator[SocketName]:
    """Check the folder of a socket and hold it open.

    Guarantees: on Linux `SocketName.path` goes through the open folder, so a folder put in its place later is not used,
        and the 107 bytes that a socket's name may have do not matter.
    Args:
        path: of the socket.
    Raises:
        Refused: `control_folder`; nothing was connected or bound.
        FileNotFoundError: there is no such folder.
    """
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    require_private_folder(path.parent)
    handle = os.open(path.parent, flags)
    try:
        owner = _require_private(os.fstat(handle))
        name = f"{_DESCRIPTORS}/{handle}/{path.name}" if _DESCRIPTORS.is_dir() else str(path)
        yield SocketName(path=name, folder=path.parent, owner=owner)
    finally:
        os.close(handle)


def require_private_folder(folder: Path) -> None:
    """Look at the folder as it is now.

    Raises:
        Refused: `control_folder`: it is a link, another user's, or open to others.
        FileNotFoundError: there is none.
    """
    _require_private(folder.lstat())


def _require_private(found: os.stat_result) -> int:
    if not stat.S_ISDIR(found.st_mode):
        raise _no("the folder of the socket is a link or no folder")
    if os.geteuid() not in (found.st_uid, 0):
        raise _no("the folder of the socket is another user's")
    if stat.S_IMODE(found.st_mode) & 0o077:
        raise _no(f"the folder of the socket is open to others (mode {stat.S_IMODE(found.st_mode):04o})")
    return found.st_uid


def require_private_socket(name: SocketName) -> None:
    """Look at the socket itself.

    Raises:
        Refused: `control_folder`: it is a link, no socket, or another user's.
        FileNotFoundError: there is none.
    """
    found = os.lstat(name.path)
    if not stat.S_ISSOCK(found.st_mode):
        raise _no("there is a link or a file where the socket should be")
    if found.st_uid != name.owner:
        raise _no("the socket is another user's")


@contextlib.contextmanager
def claimed(path: Path) -> Iterator[SocketName]:
    """Make the folder, lock it for one daemon, and take away what a killed daemon has left.

    Guarantees: while this holds, no other daemon of this package uses the folder; whatever ends the process ends it.
    Raises:
        TryAgain: another daemon runs here; it was not disturbed.
        Refused: `control_folder`; the daemon did not start.
    """
    make_folder(path.parent.parent)
    with contextlib.suppress(FileExistsError):
        path.parent.mkdir(mode=0o700)
    with opened_folder(path) as name, _locked(path.parent / LOCK):
        with contextlib.suppress(FileNotFoundError):
            require_private_socket(name)
            Path(name.path).unlink()
        yield name


@contextlib.contextmanager
def _locked(lock: Path) -> Iterator[None]:
    handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as err:
            raise TryAgain("another daemon runs on this directory; stop it first, or name another with --dir") from err
        yield
    finally:
        os.close(handle)


def foreign_users(name: SocketName) -> set[int]:
    """Give the user ids behind the open connections of this process's socket that are neither the owner nor root.

    Source: unix(7), SO_PEERCRED: the credentials are those of the moment of connect.
    """
    if _PEERCRED is None or not _DESCRIPTORS.is_dir():
        return set()
    users = {_user_behind(int(entry.name), name.path) for entry in _DESCRIPTORS.iterdir()}
    return {user for user in users if user is not None} - {name.owner, 0}


def require_known_peers(name: SocketName) -> None:
    """Refuse while anybody but the owner and root is connected.

    Raises:
        Refused: `control_peer`; whoever asks meanwhile gets this answer, since gRPC does not say which connection
            a call came by.
    """
    if foreign_users(name):
        raise Refused(
            "control_peer",
            reason="a program of another user is connected to the daemon's socket",
            remedy="restart the daemon, and find out who widened the rights of its folder",
        )


def _user_behind(handle: int, path: str) -> int | None:
    """Say who is connected to our end of a socket; None: the descriptor is something else, or is gone."""
    try:
        if not stat.S_ISSOCK(os.fstat(handle).st_mode):
            return None
        with socket.socket(fileno=os.dup(handle)) as end:
            if end.family != socket.AF_UNIX or end.getsockname() != path:
                return None
            if end.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                return None
            return _user(end)
    except OSError:
        return None


def listener(name: SocketName, *, timeout_s: float) -> int:
    """Connect once and give the user id of who listens.

    Raises:
        FileNotFoundError, ConnectionRefusedError: nobody does.
        TryAgain: who listens takes no connection.
        Refused: `control_folder`: it is neither the folder's owner nor root.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | getattr(socket, "SOCK_CLOEXEC", 0)) as end:
        end.settimeout(timeout_s)
        try:
            end.connect(name.path)
        except (TimeoutError, BlockingIOError) as err:
            raise TryAgain("the daemon takes no connection; it may be stopped or overloaded: look at its log") from err
        user = name.owner if _PEERCRED is None else _user(end)
    if user not in (name.owner, 0):
        raise _no("another user's program listens on the socket")
    return user


def _user(end: socket.socket) -> int:
    if _PEERCRED is None:
        raise OSError("no SO_PEERCRED on this system")
    size = struct.calcsize("3i")
    _, user, _ = struct.unpack("3i", end.getsockopt(socket.SOL_SOCKET, _PEERCRED, size))
    return int(user)


def _no(reason: str) -> Refused:
    return Refused(
        "control_folder",
        reason=reason,
        remedy="stop the daemon, remove the folder control/ of its directory, and start it as its own user",
    )
