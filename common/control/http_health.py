"""/healthz and /readyz for supervisors that speak HTTP only, and /metrics where it is asked for.

/healthz  200: the daemon answers; 503: it does not, or is stopping
/readyz   200: every condition is met; 503: one is not, with the reason
/metrics  Prometheus' text format; 404 unless the settings ask for it

Covers: it listens on 127.0.0.1 alone, and only where a port is configured; a question that names another host (as a
    page in a browser would) is refused; there is no other path. The first two hold no more than the conditions, the
    third what metrics.py says.
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
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from partsong.common.build import to_tree
from partsong.common.control.loopback import LOOPBACK, serving
from partsong.common.control.metrics import CONTENT_TYPE
from partsong.common.control.surfaces import CoordinatorStatus, SiteStatus

_UNWELL = {"state": "unknown", "ready": False, "checks": []}

Status = Callable[[], SiteStatus | CoordinatorStatus]
Metrics = Callable[[], bytes]


@contextlib.contextmanager
def serving_health(port: int, status: Status, *, metrics: Metrics | None = None) -> Iterator[int]:
    """Answer the paths while this holds; give the port.

    Args:
        port: on loopback; 0: any that is free.
        status: of the daemon; called from another thread.
        metrics: writes what /metrics answers; called from another thread. None: there is no such path.
    Raises:
        TryAgain: the port is in use; nothing listens.
    """
    with serving(_app(status, metrics), port, setting="health_port") as bound:
        yield bound


def _app(status: Status, metrics: Metrics | None) -> Starlette:
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

    def measured(_request: Request) -> Response:
        return Response(metrics() if metrics else b"", media_type=CONTENT_TYPE)

    routes = [Route("/healthz", healthz, methods=["GET"]), Route("/readyz", readyz, methods=["GET"])]
    routes += [Route("/metrics", measured, methods=["GET"])] if metrics else []
    return Starlette(
        routes=routes,
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=[LOOPBACK, "localhost"], www_redirect=False)],
    )


def _found(status: Status) -> SiteStatus | CoordinatorStatus | None:
    """Ask the daemon; None: it failed to answer. Why is in its log, and not for whoever asks here."""
    try:
        return status()
    except Exception:  # noqa: BLE001 - whatever it is, the answer is 503
        return None
