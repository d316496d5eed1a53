"""Open pages hear that something happened, and cost the daemon nothing that is not bounded."""

import http.client
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from dashboards import site_dashboard
from visitor import Visitor

from partsong.common.control.feed import ProgressEvent
from partsong.common.dashboard.live import MOST_PAGES, messages, step_words


def event(name: str, **facts: Any) -> ProgressEvent:
    return ProgressEvent(event=name, time_ms=0, facts=facts)


@contextmanager
def stream(visitor: Visitor) -> Iterator[http.client.HTTPResponse]:
    """Open what a page listens to."""
    connection = http.client.HTTPConnection("127.0.0.1", visitor.key.port, timeout=30)
    try:
        connection.request("GET", f"{visitor.base}events", headers={"Host": visitor.host, "Cookie": visitor.cookie})
        yield connection.getresponse()
    finally:
        connection.close()


def test_steps_are_told_once_and_everything_else_is_a_change() -> None:
    """The newest step of a moment; one `changed` for any number of other events."""
    steps = [event("step", round=2, step=n, steps=9) for n in (3, 4)]

    both = messages([steps[0], event("run_state", state="running"), event("connected"), steps[1]])

    assert both == ["event: step\ndata: round 2: step 4 of 9\n\n", "event: changed\ndata:\n\n"]
    assert messages(steps) == both[:1]
    assert messages([event("connected")]) == both[1:]
    assert step_words(event("step")) == "round ?: step ? of ?"


def test_an_open_page_hears_what_the_daemon_tells(fleet: Any) -> None:
    """From the moment on that it was opened; the stream is no page that a browser keeps."""
    site = fleet.sites["a"]
    with site_dashboard(site) as key, stream(Visitor(key).log_in()) as heard:
        begins = heard.readline()
        site.feed.tell("paused")

        told = [heard.readline() for _ in range(3)]

        assert begins == b"retry: 2000\n"
        assert told == [b"\n", b"event: changed\n", b"data:\n"]
        assert heard.headers["content-type"].startswith("text/event-stream")
        assert heard.headers["cache-control"] == "no-store"


def test_there_is_room_for_few_pages_and_room_again_when_one_goes(fleet: Any) -> None:
    """Whoever finds none is asked to come later; the commands that watch are not crowded out."""
    site = fleet.sites["a"]
    with site_dashboard(site) as key, ExitStack() as stack:
        visitor = Visitor(key).log_in()
        rooms = [stack.enter_context(stream(visitor)).readline() for _ in range(MOST_PAGES)]

        with stream(visitor) as late:
            refused = late.read()
        with site.feed.watch():
            pass

        assert set(rooms) == {b"retry: 2000\n"}
        assert refused == b"retry: 30000\n\n"

    assert not site.feed.watched


def test_a_page_that_was_closed_is_forgotten(fleet: Any) -> None:
    """Its place is free without the daemon's end."""
    site = fleet.sites["a"]
    with site_dashboard(site) as key:
        visitor = Visitor(key).log_in()
        with stream(visitor) as heard:
            heard.readline()

        waits = 0
        while site.feed.watched:
            site.feed.tell("paused")
            waits += visitor.page().status == 200
            assert waits < 500

    assert not site.feed.watched


@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_the_stream_only_tells(fleet: Any, method: str) -> None:
    """Nothing is sent into it."""
    with site_dashboard(fleet.sites["a"]) as key:
        visitor = Visitor(key).log_in()

        got = visitor.ask(f"{visitor.base}events", method=method, body=b"", Origin=f"http://{visitor.host}")

        assert got.status in (403, 405)
