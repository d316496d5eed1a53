"""Asks a daemon on this machine, as the commands and dashboards do.

Covers: nothing is sent before the socket's folder, the socket and who listens behind it were found to be the owner's;
    every call has a deadline; the size of an answer is bounded.
Does not cover: another program of the same user, or of root.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc

from partsong.common.control import control_pb2 as pb
from partsong.common.control import control_pb2_grpc as stubs
from partsong.common.control import socket_file
from partsong.common.control.failures import TRAILER, from_failure
from partsong.common.control.feed import ProgressEvent
from partsong.common.control.messages import from_message, progress_event
from partsong.common.control.surfaces import (
    CoordinatorStatus,
    LedgerStatus,
    PlanStatus,
    RunStatus,
    SiteStatus,
)
from partsong.common.errors import PartsongError, TryAgain

DEADLINE_S = 10.0
MOST_ANSWER_BYTES = 4 << 20

_OPTIONS = (
    ("grpc.max_receive_message_length", MOST_ANSWER_BYTES),
    ("grpc.enable_http_proxy", 0),
    ("grpc.enable_retries", 0),
)
T = TypeVar("T")


class NoDaemon(TryAgain):
    """No daemon runs on this directory; nothing was asked."""

    def __init__(self, side: str) -> None:
        """Name the command that starts one.

        Args:
            side: `site` or `coordinator`.
        """
        super().__init__(f"no daemon runs on this directory; start it with `partsong {side} up`, or name another --dir")


class _Client:
    """A connection to a daemon; use as a context manager."""

    _side: str

    def __init__(self, path: Path, *, deadline_s: float = DEADLINE_S) -> None:
        """Name the daemon; nothing is opened yet.

        Args:
            path: of its socket.
            deadline_s: for each call except `watch`.
        """
        self._path, self._deadline_s = path, deadline_s
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        """Connect.

        Raises:
            NoDaemon: none runs.
            TryAgain: it takes no connection.
            Refused: `control_folder`: others could have put another program in its place; nothing was sent.
        """
        with contextlib.ExitStack() as stack:
            try:
                name = stack.enter_context(socket_file.opened_folder(self._path))
                socket_file.require_private_socket(name)
                socket_file.listener(name, timeout_s=self._deadline_s)
            except (FileNotFoundError, ConnectionRefusedError) as err:
                raise NoDaemon(self._side) from err
            credentials = grpc.local_channel_credentials(grpc.LocalConnectionType.UDS)
            channel = grpc.secure_channel(f"unix:{name.path}", credentials, options=_OPTIONS)
            self._use(stack.enter_context(channel))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Disconnect; a watch ends."""
        self._stack.close()

    def _use(self, channel: grpc.Channel) -> None:
        raise NotImplementedError

    def _ask(self, method: Callable[..., T], request: Any) -> T:
        try:
            return method(request, timeout=self._deadline_s)
        except grpc.RpcError as err:
            raise _error(err, self._side) from err

    def _events(self, method: Callable[..., Any]) -> Iterator[ProgressEvent]:
        call = method(pb.WatchRequest())
        try:
            call.initial_metadata()
            for message in call:
                yield progress_event(message)
        except grpc.RpcError as err:
            if err.code() is not grpc.StatusCode.CANCELLED:
                raise _error(err, self._side) from err
        finally:
            call.cancel()


class SiteClient(_Client):
    """Asks a site's daemon; each method is that of `surfaces.SiteControl`, with its errors.

    Raises:
        NoDaemon: it ended meanwhile.
        TryAgain: no answer came within the deadline; a change may have been made.
    """

    _side = "site"

    def _use(self, channel: grpc.Channel) -> None:
        self._stub = stubs.SiteControlStub(channel)

    def status(self) -> SiteStatus:
        """Say where the daemon stands."""
        return from_message(SiteStatus, self._ask(self._stub.Status, pb.StatusRequest()))

    def plans(self) -> tuple[PlanStatus, ...]:
        """List every plan that was proposed, the newest last."""
        return tuple(from_message(PlanStatus, plan) for plan in self._ask(self._stub.Plans, pb.PlansRequest()).plans)

    def approve(self, plan: str) -> PlanStatus:
        """Accept a plan."""
        return from_message(PlanStatus, self._ask(self._stub.Approve, pb.ApproveRequest(plan=plan)))

    def refuse(self, plan: str, *, reason: str) -> PlanStatus:
        """Refuse a plan, or take an approval back."""
        return from_message(PlanStatus, self._ask(self._stub.Refuse, pb.RefuseRequest(plan=plan, reason=reason)))

    def pause(self) -> SiteStatus:
        """Take no new query until `resume`."""
        return from_message(SiteStatus, self._ask(self._stub.Pause, pb.PauseRequest()))

    def resume(self) -> SiteStatus:
        """Take queries again."""
        return from_message(SiteStatus, self._ask(self._stub.Resume, pb.ResumeRequest()))

    def ledger(self) -> LedgerStatus:
        """Say what was spent."""
        return from_message(LedgerStatus, self._ask(self._stub.Ledger, pb.LedgerRequest()))

    def watch(self) -> Iterator[ProgressEvent]:
        """Give events from now on until the daemon stops; `events_lost` where this reader was too slow."""
        return self._events(self._stub.Watch)


class CoordinatorClient(_Client):
    """Asks a coordinator's daemon; each method is that of `surfaces.CoordinatorControl`, with its errors.

    Raises:
        NoDaemon: it ended meanwhile.
        TryAgain: no answer came within the deadline; a change may have been made.
    """

    _side = "coordinator"

    def _use(self, channel: grpc.Channel) -> None:
        self._stub = stubs.CoordinatorControlStub(channel)

    def status(self) -> CoordinatorStatus:
        """Say where the daemon stands."""
        return from_message(CoordinatorStatus, self._ask(self._stub.Status, pb.StatusRequest()))

    def runs(self) -> tuple[RunStatus, ...]:
        """List every run, the newest last."""
        return tuple(from_message(RunStatus, run) for run in self._ask(self._stub.Runs, pb.RunsRequest()).runs)

    def run(self, job: Path) -> RunStatus:
        """Begin the job in a folder."""
        return from_message(RunStatus, self._ask(self._stub.Run, pb.RunRequest(job=str(job.absolute()))))

    def stop(self, run: str) -> RunStatus:
        """End a run after the round that is under way."""
        return from_message(RunStatus, self._ask(self._stub.Stop, pb.StopRunRequest(run=run)))

    def resume(self, run: str) -> RunStatus:
        """Go on with a run from its checkpoint."""
        return from_message(RunStatus, self._ask(self._stub.Resume, pb.ResumeRunRequest(run=run)))

    def watch(self) -> Iterator[ProgressEvent]:
        """Give events from now on until the daemon stops; `events_lost` where this reader was too slow."""
        return self._events(self._stub.Watch)


def _error(err: grpc.RpcError, side: str) -> PartsongError:
    """Turn what gRPC says into an error of ours."""
    for name, value in err.trailing_metadata() or ():
        if name == TRAILER and isinstance(value, bytes) and (error := from_failure(value)) is not None:
            return error
    code = err.code()
    if code is grpc.StatusCode.UNAVAILABLE:
        return NoDaemon(side)
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return TryAgain("the daemon gave no answer in time; look at its log, then at `status` before you try again")
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return TryAgain("the daemon answers as many calls as it can, or this one was too large")
    return PartsongError(f"the daemon did not answer as it should: {code.name}")
