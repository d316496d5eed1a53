"""A supervisor that speaks HTTP learns whether the daemon lives and is ready."""

import http.client
import json
import socket
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from quiet_daemons import COORDINATOR, SITE

from partsong.common.control.http_health import serving_health
from partsong.common.control.loopback import LOOPBACK
from partsong.common.control.surfaces import Check, SiteStatus
from partsong.common.errors import TryAgain

SECRET = "fracture of the left wrist"


@pytest.fixture
def now() -> list[Any]:
    """What the daemon says; tests change it."""
    return [SITE]


@pytest.fixture
def port(now: list[Any]) -> Iterator[int]:
    """Port of the two paths."""

    def status() -> SiteStatus:
        if isinstance(now[0], Exception):
            raise now[0]
        return now[0]  # type: ignore[no-any-return]

    with serving_health(0, status) as port:
        yield port


def _get(port: int, path: str, *, method: str = "GET", **headers: str) -> tuple[int, Any]:
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=10)
    try:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        body = answer.read()
        return answer.status, json.loads(body) if answer.headers["content-type"] == "application/json" else body
    finally:
        connection.close()


def test_a_daemon_that_is_ready_answers_200_with_its_conditions(port: int) -> None:
    """Both paths say so, and tell state and conditions alone."""

    assert _get(port, "/healthz") == (200, {"state": "running"})
    assert _get(port, "/readyz") == (
        200,
        {
            "state": "running",
            "ready": True,
            "checks": [{"name": "registered", "ok": True, "reason": ""}, {"name": "data", "ok": True, "reason": ""}],
        },
    )


def test_an_unmet_condition_is_503_with_its_reason_and_still_alive(port: int, now: list[Any]) -> None:
    """Ready and alive are two questions; the next answer is of the moment."""
    now[0] = replace(SITE, checks=(Check(name="policy", ok=False, reason="no policy is loaded"),))

    status, tree = _get(port, "/readyz")

    assert (status, tree["ready"], tree["checks"][0]["reason"]) == (503, False, "no policy is loaded")
    assert _get(port, "/healthz")[0] == 200
    now[0] = SITE
    assert _get(port, "/readyz")[0] == 200


def test_a_coordinator_is_asked_the_same_way(port: int, now: list[Any]) -> None:
    """Its conditions are others, the answer has the same form."""
    now[0] = COORDINATOR

    assert _get(port, "/readyz")[0] == 503
    assert _get(port, "/healthz") == (200, {"state": "starting"})


def test_a_daemon_that_fails_to_answer_is_503_without_a_reason(port: int, now: list[Any]) -> None:
    """The text of what went wrong is not for whoever asks."""
    now[0] = ValueError(SECRET)

    answers = [_get(port, path) for path in ("/healthz", "/readyz")]

    assert [status for status, _ in answers] == [503, 503]
    assert SECRET not in repr(answers)


def test_a_daemon_that_stops_is_not_well(port: int, now: list[Any]) -> None:
    """A supervisor sends it nothing more."""
    now[0] = replace(SITE, state="stopping")

    assert _get(port, "/healthz") == (503, {"state": "stopping"})


@pytest.mark.parametrize("path", ["/", "/docs", "/openapi.json", "/healthz/x", "/metrics", "/readyz/../etc/passwd"])
def test_there_is_no_other_path(port: int, path: str) -> None:
    """Nothing else is served."""

    assert _get(port, path)[0] == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_nothing_can_be_changed(port: int, method: str) -> None:
    """The paths are read only."""

    assert _get(port, "/healthz", method=method)[0] == 405


def test_a_page_of_another_host_gets_no_answer(port: int) -> None:
    """A name that was rebound to this machine is refused by the Host header."""

    assert _get(port, "/readyz", Host="evil.example")[0] == 400
    assert _get(port, "/readyz", Host=f"localhost:{port}")[0] == 200


def test_only_loopback_listens(port: int) -> None:
    """The port is closed on the machine's other addresses; where it has none, on another of loopback."""
    with socket.socket() as end:
        end.settimeout(10)

        with pytest.raises(ConnectionRefusedError):
            end.connect(("127.0.0.2", port))


def test_a_port_in_use_is_said_at_the_start(port: int) -> None:
    """The exit code is 75 and nothing else listens there."""
    with pytest.raises(TryAgain, match=str(port)) as no, serving_health(port, lambda: SITE):
        pass

    assert no.value.exit_code == 75


def test_a_silent_connection_keeps_no_other_from_an_answer(port: int) -> None:
    """One that sends half a question and waits is not waited for."""
    with socket.create_connection((LOOPBACK, port)) as silent:
        silent.sendall(b"GET /healthz HTTP/1.1\r\nHost: ")

        assert _get(port, "/healthz")[0] == 200


def test_nothing_listens_afterwards() -> None:
    """The port is free again, also when a connection is still open."""
    with serving_health(0, lambda: SITE) as port:
        idle = socket.create_connection((LOOPBACK, port))
    with idle, socket.socket() as end, pytest.raises(ConnectionRefusedError):
        end.connect((LOOPBACK, port))
