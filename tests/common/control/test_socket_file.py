"""Who cannot be trusted with the socket is turned away on both sides."""

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from quiet_daemons import SITE, QuietSite

from partsong.common.control import socket_file
from partsong.common.control.client import SiteClient
from partsong.common.control.server import site_server
from partsong.common.errors import Refused


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a site's socket lies."""
    return tmp_path / "control" / "daemon.sock"


def test_folder_and_socket_are_the_owners_alone(path: Path) -> None:
    """Whatever the umask, the folder has mode 0700 and the socket 0600."""
    mask = os.umask(0)
    try:
        with site_server(path, QuietSite()):
            modes = [p.stat().st_mode & 0o777 for p in (path.parent, path, path.with_name(socket_file.LOCK))]
    finally:
        os.umask(mask)

    assert modes == [0o700, 0o600, 0o600]


@pytest.mark.parametrize("mode", [0o701, 0o710, 0o770, 0o755, 0o702, 0o704])
def test_a_daemon_does_not_start_in_a_folder_open_to_others(path: Path, mode: int) -> None:
    """One bit for anybody else is too much; the mode is left to the operator."""
    path.parent.mkdir()
    path.parent.chmod(mode)

    with pytest.raises(Refused, match=f"mode {mode:04o}"), site_server(path, QuietSite()):
        pass

    assert path.parent.stat().st_mode & 0o777 == mode


def test_a_folder_that_is_opened_while_the_daemon_runs_stops_its_answers(path: Path) -> None:
    """Each call looks again, on the client's side and on the daemon's; closed again, it answers."""
    with site_server(path, QuietSite()), SiteClient(path) as client:
        path.parent.chmod(0o777)

        with pytest.raises(Refused, match="control_folder"):
            client.status()
        with pytest.raises(Refused, match="control_folder"), SiteClient(path):
            pass
        path.parent.chmod(0o700)
        assert client.status() == SITE


def test_a_link_in_place_of_the_folder_is_refused(path: Path, tmp_path: Path) -> None:
    """Neither side follows it, wherever it leads."""
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    path.parent.symlink_to(tmp_path / "elsewhere")

    with pytest.raises(Refused, match="a link or no folder"), site_server(path, QuietSite()):
        pass
    with pytest.raises(Refused, match="a link or no folder"), SiteClient(path):
        pass

    assert not any((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize("make", [lambda p: p.symlink_to("victim"), lambda p: p.write_text("file"), Path.mkdir])
def test_what_is_no_socket_is_neither_used_nor_removed(path: Path, make: object) -> None:
    """A link, a file or a folder in place of the socket stops both sides and stays for the operator to see."""
    path.parent.mkdir(mode=0o700)
    (path.parent / "victim").write_text("precious")
    make(path)  # type: ignore[operator]

    with pytest.raises(Refused, match="where the socket should be"), site_server(path, QuietSite()):
        pass
    with pytest.raises(Refused, match="where the socket should be"), SiteClient(path):
        pass

    assert os.path.lexists(path)
    assert (path.parent / "victim").read_text() == "precious"


def test_a_link_in_place_of_the_lock_is_not_followed(path: Path, tmp_path: Path) -> None:
    """The file it leads to is not opened."""
    path.parent.mkdir(mode=0o700)
    path.with_name(socket_file.LOCK).symlink_to(tmp_path / "victim")

    with pytest.raises(OSError, match="symbolic links"), site_server(path, QuietSite()):
        pass

    assert not (tmp_path / "victim").exists()


@contextlib.contextmanager
def _connected(path: Path) -> Iterator[None]:
    """A program that connects and says nothing."""
    with socket.socket(socket.AF_UNIX) as end:
        end.connect(str(path))
        yield


def test_the_kernel_tells_who_is_connected(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Our own connection is nobody foreign; with another owner expected, the same connection is."""
    with socket_file.claimed(path) as name, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(name.path)
        listener.listen()
        with _connected(path):
            accepted, _ = listener.accept()
            with accepted:
                ours = socket_file.foreign_users(name)
                monkeypatch.setattr(socket_file, "_user", lambda _end: 12345)
                theirs = socket_file.foreign_users(name)
        after = socket_file.foreign_users(name)

    assert (ours, theirs, after) == (set(), {12345}, set())


_NOBODY = """
import os, socket, sys
os.setuid(65534)
end = socket.socket(socket.AF_UNIX)
try:
    end.connect(sys.argv[1])
    print("in", flush=True)
except PermissionError:
    print("out", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def _nobody(path: Path) -> Iterator[str]:
    """Another user's program that tries to connect; gives `in` or `out`."""
    program = [sys.executable, "-P", "-S", "-c", _NOBODY, str(path)]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        yield other.stdout.readline().strip()
        other.communicate()


@pytest.fixture
def reachable() -> Iterator[Path]:
    """A socket's path whose folders above `control` anybody may pass."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder) / "control" / "daemon.sock"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_the_kernel_lets_no_other_user_in(reachable: Path) -> None:
    """The folder's mode alone keeps them out, and the socket's alone does too."""
    with site_server(reachable, QuietSite()):
        with _nobody(reachable) as as_it_is:
            pass
        reachable.chmod(0o666)
        with _nobody(reachable) as folder_alone:
            pass
        reachable.chmod(0o600)
        reachable.parent.chmod(0o755)
        with _nobody(reachable) as socket_alone:
            pass
        reachable.chmod(0o666)
        with _nobody(reachable) as neither:
            pass

    assert (as_it_is, folder_alone, socket_alone, neither) == ("out", "out", "out", "in")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_users_program_that_got_in_silences_the_socket(reachable: Path) -> None:
    """Where the folder was open for a moment, no call is answered while that connection lasts."""
    with site_server(reachable, QuietSite()), SiteClient(reachable) as client:
        reachable.parent.chmod(0o755)
        reachable.chmod(0o666)
        with _nobody(reachable) as tried:
            reachable.parent.chmod(0o700)

            with pytest.raises(Refused, match="control_peer"):
                client.status()

        assert tried == "in"


def test_a_program_of_another_user_in_the_daemons_place_is_not_asked(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command looks at who listens before it says anything."""
    with site_server(path, QuietSite()):
        monkeypatch.setattr(socket_file, "_user", lambda _end: 12345)

        with pytest.raises(Refused, match="another user's program"), SiteClient(path):
            pass


@pytest.mark.parametrize("uid", [1000, 65534])
def test_a_folder_of_another_user_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch, uid: int) -> None:
    """Whoever is neither its owner nor root does not use it."""
    path.parent.mkdir(mode=0o700)
    monkeypatch.setattr(os, "geteuid", lambda: uid + os.getuid())

    with pytest.raises(Refused, match="another user's"):
        socket_file.require_private_folder(path.parent)
