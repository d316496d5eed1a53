"""/healthz and /readyz for supervisors that speak HTTP only.

/healthz  200: the daemon answers; 503: it does not, or is stopping
/readyz   200: every condition is met; 503: one is not, with the reason

Covers: it listens on 127.0.0.1 alone, and only where a port is configured; a question that names another host (as a
    page in a browser would) is refused; there is no third path, and no answer holds more than the conditions.
Does not cover: any user of this machine may ask. A program here that opens many connections and says nothing keeps the
    two paths busy, not the daemon.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from partsong.common.build import to_tree
from partsong.common.control.loopback import LOOPBACK, serving
from partsong.common.control.surfaces import CoordinatorStatus, SiteStatus

_UNWELL = {"state": "unknown", "ready": False, "checks": []}

Status = Callable[[], SiteStatus | CoordinatorStatus]


@contextlib.contextmanager
def serving_health(port: int, status: Status) -> Iterator[int]:
    """Answer the two paths while this holds; give the port.

    Args:
        port: on loopback; 0: any that is free.
        status: of the daemon; called from another thread.
    Raises:
        TryAgain: the port is in use; nothing listens.
    """
    with serving(_app(status), port, setting="health_port") as bound:
        yield bound


def _app(status: Status) -> Starlette:
    def healthz(_request: Request) -> JSONResponse:
        found = _found(status)
        is_well = found is not None and found.state != "stopping"
        return JSONResponse({"state": found.state if found else "unknown"}, status_code=200 if is_well else 503)

    def readyz(_request: Request) -> JSONResponse:
        found = _found(status)
        if found is None:
            return JSONResponse(_UNWELL, status_code=503)
        tree = {"state": found.state, "ready": found.ready, "checks": to_tree(found.checks)}
        return JSONResponse(tree, status_code=200 if found.ready else 503)

    return Starlette(
        routes=[Route("/healthz", healthz, methods=["GET"]), Route("/readyz", readyz, methods=["GET"])],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=[LOOPBACK, "localhost"], www_redirect=False)],
    )


def _found(status: Status) -> SiteStatus | CoordinatorStatus | None:
    """Ask the daemon; None: it failed to answer. Why is in its log, and not for whoever asks here."""
    try:
        return status()
    except Exception:  # noqa: BLE001 - whatever it is, the answer is 503
        return None
