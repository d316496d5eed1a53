"""A dashboard at the port that the settings name, for as long as its daemon runs.

Covers: no port, no dashboard; a new key, place and set of sessions at each start, so that what a killed daemon has left
    opens nothing.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator
from pathlib import Path

from partsong.common.control.loopback import serving
from partsong.common.dashboard import keys
from partsong.common.dashboard.live import Live
from partsong.common.dashboard.pages import Dashboard
from partsong.common.dashboard.web import app_of

SETTING = "dashboard_port"


@contextlib.contextmanager
def serving_dashboard(board: Dashboard, *, port: int | None, socket: Path) -> Iterator[keys.Key | None]:
    """Serve a dashboard while this holds; give its key.

    Args:
        board: what is shown.
        port: on loopback; 0: any that is free; None: nothing is served.
        socket: the daemon's; the key lies beside it, in a folder of the owner's alone.
    Raises:
        TryAgain: the port is in use, or the disk is full; nothing is served.
    """
    file = key_file(socket)
    file.unlink(missing_ok=True)
    if port is None:
        yield None
        return
    key, live = secrets.token_urlsafe(32), Live(board.feed)
    app = app_of(board, sessions=keys.Sessions(key), place=secrets.token_urlsafe(16), live=live)
    with contextlib.ExitStack() as stack:
        bound = stack.enter_context(serving(app, port, setting=SETTING))
        stack.callback(live.close)
        made = keys.Key(port=bound, key=key)
        stack.enter_context(keys.kept(file, made))
        yield made


def key_file(socket: Path) -> Path:
    """Say where the key of a daemon's dashboard lies."""
    return socket.with_name(keys.FILE)
