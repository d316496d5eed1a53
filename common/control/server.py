"""Answers commands and dashboards on the daemon's Unix socket, and gRPC's standard health service beside them.

Covers: who may ask (`socket_file`), looked at before each call; size of a request, calls at once, watchers at once; a
    watcher that stops reading holds up nobody and is cut off when it no longer answers pings.
Does not cover: what the owner of the socket asks for.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self, TypeVar

import grpc
from grpc_health.v1.health import HealthServicer
from grpc_health.v1.health_pb2 import HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server

from partsong.common.control import control_pb2 as pb
from partsong.common.control import control_pb2_grpc as stubs
from partsong.common.control import socket_file
from partsong.common.control.failures import TRAILER, to_failure
from partsong.common.control.feed import MOST_WATCHERS, Feed, ProgressEvent
from partsong.common.control.messages import progress_message, to_message
from partsong.common.control.surfaces import CoordinatorControl, SiteControl
from partsong.common.errors import ConfigError, Refused, TryAgain

MOST_REQUEST_BYTES = 16 * 1024
"""A request names a plan, a run or a folder."""
MOST_CALLS = MOST_WATCHERS + 16
LOOK_EVERY_S = 5.0
"""How old the health service's answer may be, and how often a watcher's thread looks whether it is still wanted."""

SITE_SERVICE: str = pb.DESCRIPTOR.services_by_name["SiteControl"].full_name
COORDINATOR_SERVICE: str = pb.DESCRIPTOR.services_by_name["CoordinatorControl"].full_name

_OPTIONS = (
    ("grpc.max_receive_message_length", MOST_REQUEST_BYTES),
    ("grpc.max_metadata_size", 8 * 1024),
    ("grpc.max_concurrent_streams", MOST_CALLS),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.so_reuseport", 0),
)
T = TypeVar("T")


class ControlServer:
    """A daemon's local socket: use as a context manager, for as long as the daemon lives."""

    def __init__(self, path: Path, control: SiteControl | CoordinatorControl, service: str, servicer: Any) -> None:
        """Take the parts; `site_server` and `coordinator_server` choose them."""
        self._path, self._control, self._service, self._servicer = path, control, service, servicer
        self._stack = contextlib.ExitStack()
        self._health = HealthServicer()
        self._stopping = threading.Event()

    def __enter__(self) -> Self:
        """Listen.

        Raises:
            TryAgain: another daemon runs on this directory.
            Refused: `control_folder`: others could reach the socket; nobody was let in.
        """
        with contextlib.ExitStack() as stack:
            name = stack.enter_context(socket_file.claimed(self._path))
            pool = ThreadPoolExecutor(MOST_CALLS, thread_name_prefix="control")
            stack.callback(pool.shutdown)
            server = grpc.server(
                pool, interceptors=(_Doorkeeper(name),), options=_OPTIONS, maximum_concurrent_rpcs=MOST_CALLS
            )
            self._servicer(server)
            add_HealthServicer_to_server(self._health, server)
            _listen(server, name)
            server.start()
            stack.callback(lambda: server.stop(grace=1.0).wait())
            self._watch_health(stack)
            stack.callback(self._stopping.set)
            stack.callback(self._control.feed.close)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the feed, end the calls that are under way, and give the directory free."""
        self._stack.close()

    def refresh_health(self) -> None:
        """Tell the health service now whether the daemon is ready; else it learns within `LOOK_EVERY_S`."""
        ready = HealthCheckResponse.SERVING if self._control.status().ready else HealthCheckResponse.NOT_SERVING
        self._health.set("", ready)
        self._health.set(self._service, ready)

    def _watch_health(self, stack: contextlib.ExitStack) -> None:
        self.refresh_health()
        ticker = threading.Thread(target=self._tick, name="control-health", daemon=True)
        ticker.start()
        stack.callback(ticker.join)

    def _tick(self) -> None:
        while not self._stopping.wait(LOOK_EVERY_S):
            self.refresh_health()


def site_server(path: Path, control: SiteControl) -> ControlServer:
    """Serve a site's daemon.

    Args:
        path: of the socket, `SiteHome.socket`.
        control: the daemon.
    """
    servicer = _Site(control)
    return ControlServer(
        path, control, SITE_SERVICE, lambda server: stubs.add_SiteControlServicer_to_server(servicer, server)
    )


def coordinator_server(path: Path, control: CoordinatorControl) -> ControlServer:
    """Serve a coordinator's daemon.

    Args:
        path: of the socket, `CoordinatorHome.socket`.
        control: the daemon.
    """
    servicer = _Coordinator(control)
    return ControlServer(
        path,
        control,
        COORDINATOR_SERVICE,
        lambda server: stubs.add_CoordinatorControlServicer_to_server(servicer, server),
    )


def _listen(server: grpc.Server, name: socket_file.SocketName) -> None:
    credentials = grpc.local_server_credentials(grpc.LocalConnectionType.UDS)
    try:
        server.add_secure_port(f"unix:{name.path}", credentials)
    except RuntimeError as err:
        raise TryAgain("the control socket cannot be made; is the disk full, or its folder read-only?") from err
    Path(name.path).chmod(0o600)


class _Doorkeeper(grpc.ServerInterceptor):
    """Looks, before each call, whether anybody but the owner can reach the socket or is connected to it."""

    def __init__(self, name: socket_file.SocketName) -> None:
        self._name = name

    def intercept_service(self, continuation: Callable[[Any], Any], details: Any) -> Any:
        """Let the call pass, or put a refusal in its place."""
        try:
            socket_file.require_private_folder(self._name.folder)
            socket_file.require_known_peers(self._name)
        except (Refused, OSError) as no:
            return grpc.unary_unary_rpc_method_handler(_refusing(no))
        return continuation(details)


def _refusing(no: Exception) -> Callable[[Any, grpc.ServicerContext], NoReturn]:
    def refuse(_request: Any, context: grpc.ServicerContext) -> NoReturn:
        _abort(context, no)

    return refuse


def _abort(context: grpc.ServicerContext, error: Exception) -> NoReturn:
    code, failure = to_failure(error)
    context.set_trailing_metadata(((TRAILER, failure.SerializeToString()),))
    context.abort(code, failure.kind)
    raise AssertionError("abort always raises")


def _answer(context: grpc.ServicerContext, ask: Callable[[], T]) -> T:
    """Give an answer, or the error in a form that may leave."""
    try:
        return ask()
    except Exception as error:  # noqa: BLE001 - to_failure keeps a foreign one's text here
        _abort(context, error)


def _watch(feed: Feed, context: grpc.ServicerContext) -> Iterator[pb.ProgressEvent]:
    """Give events until the daemon stops or the caller goes; what was lost is told as `events_lost`."""
    told = 0
    with _answer(context, feed.watch) as watcher:
        context.add_callback(watcher.end)
        context.send_initial_metadata(())
        while context.is_active() and not watcher.ended:
            event = watcher.next(timeout_s=LOOK_EVERY_S)
            if (lost := watcher.lost) > told and event is not None:
                facts = {"lost": lost - told}
                yield progress_message(ProgressEvent(event="events_lost", time_ms=event.time_ms, facts=facts))
                told = lost
            if event is not None:
                yield progress_message(event)


class _Site(stubs.SiteControlServicer):
    """Carries a site's answers."""

    def __init__(self, control: SiteControl) -> None:
        self._control = control

    def Status(self, _request: pb.StatusRequest, context: grpc.ServicerContext) -> pb.SiteStatus:
        return _answer(context, lambda: to_message(pb.SiteStatus, self._control.status()))

    def Plans(self, _request: pb.PlansRequest, context: grpc.ServicerContext) -> pb.PlanList:
        return _answer(
            context, lambda: pb.PlanList(plans=[to_message(pb.PlanStatus, plan) for plan in self._control.plans()])
        )

    def Approve(self, request: pb.ApproveRequest, context: grpc.ServicerContext) -> pb.PlanStatus:
        return _answer(context, lambda: to_message(pb.PlanStatus, self._control.approve(request.plan)))

    def Refuse(self, request: pb.RefuseRequest, context: grpc.ServicerContext) -> pb.PlanStatus:
        return _answer(
            context, lambda: to_message(pb.PlanStatus, self._control.refuse(request.plan, reason=request.reason))
        )

    def Pause(self, _request: pb.PauseRequest, context: grpc.ServicerContext) -> pb.SiteStatus:
        return _answer(context, lambda: to_message(pb.SiteStatus, self._control.pause()))

    def Resume(self, _request: pb.ResumeRequest, context: grpc.ServicerContext) -> pb.SiteStatus:
        return _answer(context, lambda: to_message(pb.SiteStatus, self._control.resume()))

    def Ledger(self, _request: pb.LedgerRequest, context: grpc.ServicerContext) -> pb.LedgerStatus:
        return _answer(context, lambda: to_message(pb.LedgerStatus, self._control.ledger()))

    def Watch(self, _request: pb.WatchRequest, context: grpc.ServicerContext) -> Iterator[pb.ProgressEvent]:
        return _watch(self._control.feed, context)


class _Coordinator(stubs.CoordinatorControlServicer):
    """Carries a coordinator's answers."""

    def __init__(self, control: CoordinatorControl) -> None:
        self._control = control

    def Status(self, _request: pb.StatusRequest, context: grpc.ServicerContext) -> pb.CoordinatorStatus:
        return _answer(context, lambda: to_message(pb.CoordinatorStatus, self._control.status()))

    def Runs(self, _request: pb.RunsRequest, context: grpc.ServicerContext) -> pb.RunList:
        return _answer(
            context, lambda: pb.RunList(runs=[to_message(pb.RunStatus, run) for run in self._control.runs()])
        )

    def Run(self, request: pb.RunRequest, context: grpc.ServicerContext) -> pb.RunStatus:
        return _answer(context, lambda: to_message(pb.RunStatus, self._control.run(_absolute(request.job))))

    def Stop(self, request: pb.StopRunRequest, context: grpc.ServicerContext) -> pb.RunStatus:
        return _answer(context, lambda: to_message(pb.RunStatus, self._control.stop(request.run)))

    def Resume(self, request: pb.ResumeRunRequest, context: grpc.ServicerContext) -> pb.RunStatus:
        return _answer(context, lambda: to_message(pb.RunStatus, self._control.resume(request.run)))

    def Watch(self, _request: pb.WatchRequest, context: grpc.ServicerContext) -> Iterator[pb.ProgressEvent]:
        return _watch(self._control.feed, context)


def _absolute(job: str) -> Path:
    path = Path(job)
    if not path.is_absolute():
        raise ConfigError("job", found="a relative path", expected="an absolute one, since the daemon runs elsewhere")
    return path
