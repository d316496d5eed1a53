"""A small HTTP server on this machine's own address, in a thread.

Covers: it listens on 127.0.0.1 alone; a port that is taken is said before anything is served; nothing is logged of what
    was asked.
Does not cover: who may ask. Any user of this machine can connect; what an application answers is its own business.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

import uvicorn
from starlette.applications import Starlette

from partsong.common.errors import TryAgain

LOOPBACK = "127.0.0.1"
MOST_CONNECTIONS = 32


@contextlib.contextmanager
def serving(app: Starlette, port: int, *, setting: str) -> Iterator[int]:
    """Serve an application while this holds; give the port.

    Args:
        app: asked from another thread.
        port: on loopback; 0: any that is free.
        setting: that names the port, for the error.
    Raises:
        TryAgain: the port is in use; nothing listens.
    """
    with _bound(port, setting) as listener:
        server = uvicorn.Server(
            uvicorn.Config(
                app,
                log_config=None,
                access_log=False,
                server_header=False,
                lifespan="off",
                http="h11",
                ws="none",
                loop="asyncio",
                limit_concurrency=MOST_CONNECTIONS,
                timeout_keep_alive=5,
                timeout_graceful_shutdown=1,
            )
        )
        thread = threading.Thread(target=server.run, args=([listener],), name=setting, daemon=True)
        thread.start()
        try:
            yield int(listener.getsockname()[1])
        finally:
            server.should_exit = True
            thread.join()


@contextlib.contextmanager
def _bound(port: int, setting: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((LOOPBACK, port))
            listener.listen(MOST_CONNECTIONS)
        except OSError as err:
            raise TryAgain(f"{setting} {port} cannot be used here; another program may have it") from err
        yield listener
