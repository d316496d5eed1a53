"""The coordinator's directory in one file, for another machine or for the day its disk is gone.

Covers: everything that a run needs to go on; no daemon runs on the directory meanwhile.
Does not cover: two coordinators on copies of one directory. Nothing at either of them can notice the other: hand the
file over, start the new one, and erase the old directory.
"""

from __future__ import annotations

from pathlib import Path

from partsong.common import backup
from partsong.common.backup import Contents
from partsong.common.control.socket_file import claimed
from partsong.server.membership.home import CoordinatorHome
from partsong.server.membership.opened import read_config

NAMES = (
    "coordinator.yaml",
    "identity.json",
    "tls",
    "invited",
    "enrolled",
    "charters",
    "draft.json",
    "runs",
    "log",
)
"""All but the socket of the daemon."""


def back_up(home: CoordinatorHome, out: Path, *, now_ms: int) -> Contents:
    """Copy a coordinator's directory; see `partsong.common.backup.back_up`.

    Raises:
        TryAgain: a daemon runs on it; nothing was written.
    """
    name = read_config(home).consortium
    with claimed(home.socket):
        return backup.back_up(home.path, out, names=NAMES, side="coordinator", name=name, now_ms=now_ms)


def restore(archive: Path, home: CoordinatorHome) -> Contents:
    """Make a coordinator's directory; see `partsong.common.backup.restore`."""
    return backup.restore(archive, home.path, side="coordinator", allows=lambda path: path.split("/")[0] in NAMES)
