"""What stands around every daemon: its log, its local doors, and the supervisor that waits for word of it.

Covers: a daemon is called ready once its socket answers, and alive only while it does; SIGTERM and SIGINT let it end in
    order; what it tells its watchers stands in its log too.
Does not cover: the daemon's work. What must survive `kill -9` is on the disk before it matters, so ending in order is a
    courtesy.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

from partsong.common.control.feed import Feed
from partsong.common.control.http_health import serving_health
from partsong.common.control.metrics import measuring
from partsong.common.control.server import ControlServer
from partsong.common.control.spans import tracing
from partsong.common.control.surfaces import CoordinatorControl, SiteControl
from partsong.common.logs import EventLog, Level, log_to_folder, log_to_stream
from partsong.common.notify import notify, watchdog_interval_s

STEP, FAILED = "step", "failed"
"""The first is told many times a minute and logged at level `debug`; the second is logged as an error."""
_LOOK_S = 1.0


@contextlib.contextmanager
def hosted(
    server: ControlServer,
    control: SiteControl | CoordinatorControl,
    *,
    log_folder: Path | None,
    level: Level = "info",
    health_port: int | None,
    metrics: bool = False,
    trace_endpoint: str | None = None,
    environment: Mapping[str, str],
) -> Iterator[None]:
    """Put everything around a daemon while this holds; inside, the daemon answers on its socket and works.

    Args:
        server: of `site_server` or `coordinator_server`.
        control: the same daemon.
        log_folder: for `daemon.jsonl`; None: lines go to stderr.
        level: the lowest that is logged.
        health_port: of /healthz and /readyz; None: no port is opened.
        metrics: whether that port answers /metrics too.
        trace_endpoint: where spans go; None: there are none.
        environment: of the process; only systemd's variables are looked at.
    Raises:
        TryAgain: another daemon runs on this directory, or the health port is taken.
        InputError: the extra of `metrics` or of `trace_endpoint` is not installed.
        Refused: `control_folder`.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(
            log_to_stream(level=level) if log_folder is None else log_to_folder(log_folder, level=level)
        )
        stack.enter_context(_logged(control.feed))
        stack.enter_context(server)
        stack.enter_context(
            watched_from_outside(control, health_port=health_port, metrics=metrics, trace_endpoint=trace_endpoint)
        )
        stack.enter_context(_supervised(control, environment))
        yield


@contextlib.contextmanager
def watched_from_outside(
    control: SiteControl | CoordinatorControl,
    *,
    health_port: int | None,
    metrics: bool,
    trace_endpoint: str | None,
) -> Iterator[None]:
    """Let programs of this machine watch a daemon while this holds: health, metrics and spans, as the settings say.

    Args and Raises: those of `hosted`.
    """
    with contextlib.ExitStack() as stack:
        if trace_endpoint is not None:
            stack.enter_context(tracing(control.feed, endpoint=trace_endpoint, service="partsong"))
        written = stack.enter_context(measuring(control)) if metrics else None
        if health_port is not None:
            stack.enter_context(serving_health(health_port, control.status, metrics=written))
        yield


@contextlib.contextmanager
def stopped_by_signals(stop: threading.Event) -> Iterator[None]:
    """Let SIGTERM and SIGINT set an event; a second one of them ends the process as it would have before.

    Only in the main thread.
    """
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def put_back() -> None:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)

    def end(_number: int, _frame: FrameType | None) -> None:
        stop.set()
        put_back()

    for number in before:
        signal.signal(number, end)
    try:
        yield
    finally:
        put_back()


@contextlib.contextmanager
def _supervised(control: SiteControl | CoordinatorControl, environment: Mapping[str, str]) -> Iterator[None]:
    """Tell systemd, if it waits, that the daemon is ready, then alive, then stopping."""
    interval_s = watchdog_interval_s(environment, pid=os.getpid())
    ended = threading.Event()

    def feed_the_watchdog() -> None:
        while interval_s is not None and not ended.wait(interval_s):
            with contextlib.suppress(Exception):  # a daemon that cannot say how it is will be restarted by its silence
                control.status()
                notify("WATCHDOG=1", environment=environment)

    watchdog = threading.Thread(target=feed_the_watchdog, name="watchdog", daemon=True)
    notify("READY=1", environment=environment)
    watchdog.start()
    try:
        yield
    finally:
        ended.set()
        watchdog.join()
        with contextlib.suppress(OSError):  # systemd may be gone first when the machine shuts down
            notify("STOPPING=1", environment=environment)


@contextlib.contextmanager
def _logged(feed: Feed) -> Iterator[None]:
    """Write what watchers are told into the log."""
    log, watcher = EventLog(), feed.watch()

    def write() -> None:
        while not watcher.ended:
            if (event := watcher.next(timeout_s=_LOOK_S)) is not None:
                told: dict[str, Any] = dict(event.facts)
                write_line = {STEP: log.debug, FAILED: log.error}.get(event.event, log.info)
                write_line(event.event, **told)

    writer = threading.Thread(target=write, name="event-log", daemon=True)
    with watcher:
        writer.start()
        try:
            yield
        finally:
            watcher.end()
            writer.join()
