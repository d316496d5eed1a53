"""Rounds and training as OpenTelemetry spans, for whoever traces several programs at once. Off unless asked for.

Covers: an attribute is a fact of `common.facts`, of the names in `ATTRIBUTES`; nothing else is told. Spans go to a
    collector on this machine alone: another address is refused when the settings are read, and neither a proxy of the
    environment nor a redirection is followed. No variable of the environment adds an attribute.
Does not cover: what the collector does with them. Names of sites and runs are among the attributes. A collector that
    does not answer costs nothing but the spans: they are dropped, and the daemon does not wait.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator
from typing import Any

from partsong.common.control.feed import Feed, ProgressEvent
from partsong.common.errors import InputError

ATTRIBUTES = frozenset(
    {"run", "plan", "site", "round", "rounds", "phase", "state", "code", "sites", "lost", "step", "steps", "bytes_out"}
)
"""Facts that may be attributes. Losses, epsilons and norms are left out: they belong to reports and not to traces."""
_BEGINS, _ENDS = "round_opened", frozenset({"round_summed", "round_abandoned"})
_STEP, _TRAINING, _ROUND = "step", "training", "round"
_LOOK_S = 1.0
_SEND_S = 2.0
_NS_PER_MS = 1_000_000
MOST_OPEN = 64
"""Spans that have begun and not ended; the oldest is ended when there are more."""


@contextlib.contextmanager
def tracing(feed: Feed, *, endpoint: str, service: str) -> Iterator[None]:
    """Send spans to a collector of this machine while this holds.

    Args:
        feed: of the daemon.
        endpoint: OTLP over HTTP, as `SiteConfig.trace_endpoint` has it.
        service: name of the daemon in the traces.
    Raises:
        InputError: the extra `tracing` is not installed; nothing was sent.
    """
    try:
        import requests  # noqa: PLC0415 - an extra brings it
        from opentelemetry.exporter.otlp.proto.http import Compression  # noqa: PLC0415
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
    except ImportError as err:
        raise InputError(
            "trace_endpoint", found="no opentelemetry", expected="it", remedy="pip install 'partsong[tracing]'"
        ) from err
    # The exporter complains in whole sentences, once a span; that nobody listens is not this daemon's failure.
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
    with requests.Session() as session:
        session.trust_env, session.max_redirects = False, 0
        exporter = OTLPSpanExporter(
            endpoint=endpoint, timeout=_SEND_S, compression=Compression.NoCompression, session=session
        )
        with sending(feed, exporter, service=service):
            yield


@contextlib.contextmanager
def sending(feed: Feed, exporter: Any, *, service: str) -> Iterator[None]:
    """Make spans of what the feed tells and hand them to an exporter while this holds."""
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415 - an extra
    from opentelemetry.sdk.trace import SpanLimits, TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

    # Built by hand and not by `Resource.create`, which would add what the environment says.
    provider = TracerProvider(
        resource=Resource({"service.name": service}), shutdown_on_exit=False, span_limits=SpanLimits()
    )
    provider.add_span_processor(BatchSpanProcessor(exporter, export_timeout_millis=_SEND_S * 1000))
    spans, watcher = _Spans(provider.get_tracer("partsong")), feed.watch()

    def follow() -> None:
        while not watcher.ended:
            if (event := watcher.next(timeout_s=_LOOK_S)) is not None:
                spans.take(event)

    reader = threading.Thread(target=follow, name="spans", daemon=True)
    with watcher:
        reader.start()
        try:
            yield
        finally:
            watcher.end()
            reader.join()
            spans.close()
            provider.shutdown()


class _Spans:
    """Spans that have begun; those of one run and round belong together."""

    def __init__(self, tracer: Any) -> None:
        self._tracer = tracer
        self._open: dict[tuple[object, ...], Any] = {}

    def take(self, event: ProgressEvent) -> None:
        """Begin, mark or end spans."""
        facts, time_ns = event.facts, event.time_ms * _NS_PER_MS
        kind = _TRAINING if event.event == _STEP else _ROUND
        key = (kind, facts.get("run", facts.get("plan")), facts.get("round"))
        attributes = {name: value for name, value in facts.items() if name in ATTRIBUTES}
        if event.event == _BEGINS or (event.event == _STEP and key not in self._open):
            self._end(key, time_ns)
            self._open[key] = self._tracer.start_span(kind, start_time=time_ns, attributes=attributes)
            if len(self._open) > MOST_OPEN:
                self._end(next(iter(self._open)), time_ns)
        elif key in self._open and event.event != _STEP:
            self._open[key].add_event(event.event, attributes=attributes, timestamp=time_ns)
        is_last_step = event.event == _STEP and facts.get("step") == facts.get("steps")
        if event.event in _ENDS or is_last_step:
            self._end(key, time_ns)

    def close(self) -> None:
        """End what is open, with the time of now."""
        for span in self._open.values():
            span.end()
        self._open.clear()

    def _end(self, key: tuple[object, ...], time_ns: int) -> None:
        span = self._open.pop(key, None)
        if span is not None:
            span.end(end_time=time_ns)
