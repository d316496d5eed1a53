"""Spans hold facts of a list, and go to this machine alone."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from partsong.common.control.feed import Feed
from partsong.common.control.spans import ATTRIBUTES, sending, tracing
from partsong.common.facts import FIELDS

pytest.importorskip("opentelemetry.sdk")
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: F401
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter


def told(feed: Feed) -> None:
    """A round, an abandoned one, and a site's training."""
    feed.tell("round_opened", run="study", round=1, sites=3)
    feed.tell("site_reported", run="study", round=1, site="north", bytes_out=100)
    feed.tell("round_summed", run="study", round=1, sites=3, loss=2.5, epsilon=1.5, update_norm=3.0)
    feed.tell("round_opened", run="study", round=2, sites=3)
    feed.tell("round_abandoned", run="study", round=2)
    for step in (1, 2):
        feed.tell("step", plan="ab" * 32, round=1, step=step, steps=2)


def spans_of(feed: Feed) -> tuple[ReadableSpan, ...]:
    """What an exporter is handed."""
    exporter = InMemorySpanExporter()
    with sending(feed, exporter, service="partsong"):
        told(feed)
    return exporter.get_finished_spans()


def test_a_round_and_a_training_are_a_span_each() -> None:
    """In the order of their ends, with what happened in between."""
    spans = spans_of(Feed())

    assert [span.name for span in spans] == ["round", "round", "training"]
    assert [event.name for event in spans[0].events] == ["site_reported", "round_summed"]
    assert dict(spans[0].attributes or {}) == {"run": "study", "round": 1, "sites": 3}


def test_attributes_are_facts_of_the_list() -> None:
    """No loss, epsilon or norm; and the list holds facts alone."""
    spans = spans_of(Feed())
    found = {name for span in spans for name in span.attributes or {}}
    found |= {name for span in spans for event in span.events for name in event.attributes or {}}

    assert found <= ATTRIBUTES < set(FIELDS)
    assert "loss" not in found
    assert {"loss", "epsilon", "update_norm"}.isdisjoint(ATTRIBUTES)


def test_the_environment_adds_no_attribute(monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK would take host and user names from there; here the service's name is all."""
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "host.name=ward-7,enduser.id=meier")

    spans = spans_of(Feed())

    assert dict(spans[0].resource.attributes) == {"service.name": "partsong"}


def test_rounds_that_never_end_are_not_kept_for_ever() -> None:
    """The oldest is ended when there are too many; the rest at the end."""
    feed, exporter = Feed(), InMemorySpanExporter()

    with sending(feed, exporter, service="partsong"):
        for number in range(100):
            feed.tell("round_opened", run="study", round=number, sites=3)

    assert len(exporter.get_finished_spans()) == 100


@contextmanager
def collector() -> Iterator[tuple[int, list[bytes]]]:
    """A collector of this machine: its port, and what came."""
    came: list[bytes] = []

    class Takes(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            came.append(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Takes) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server.server_port, came
        finally:
            server.shutdown()
            thread.join()


def test_spans_reach_a_collector_of_this_machine_past_any_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """In OTLP, decoded by its own messages; a proxy in the environment is not asked."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    feed = Feed()
    with (
        collector() as (port, came),
        tracing(feed, endpoint=f"http://127.0.0.1:{port}/v1/traces", service="partsong"),
    ):
        told(feed)

    found = [ExportTraceServiceRequest.FromString(body) for body in came]

    names = [s.name for r in found for rs in r.resource_spans for scope in rs.scope_spans for s in scope.spans]
    assert names == ["round", "round", "training"]
