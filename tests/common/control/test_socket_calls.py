"""Commands ask a daemon over a real Unix socket and get what it says, or its own error."""

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from quiet_daemons import COORDINATOR, LEDGER, PLAN, PLANS, RUN, SITE, QuietCoordinator, QuietSite

from partsong.common.control import control_pb2 as pb
from partsong.common.control import control_pb2_grpc as stubs
from partsong.common.control.client import CoordinatorClient, NoDaemon, SiteClient
from partsong.common.control.feed import LONGEST_QUEUE, MOST_WATCHERS
from partsong.common.control.server import (
    COORDINATOR_SERVICE,
    MOST_REQUEST_BYTES,
    SITE_SERVICE,
    coordinator_server,
    site_server,
)
from partsong.common.control.surfaces import Check
from partsong.common.errors import InputError, ModelError, PartsongError, Refused, RoundAborted, TryAgain


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The socket of a daemon whose directory lies deeper than a socket's name may be long."""
    return tmp_path / ("deep" * 30) / "control" / "daemon.sock"


@pytest.fixture
def daemon(path: Path) -> Iterator[QuietSite]:
    """A site's daemon that is asked over its socket."""
    quiet = QuietSite()
    with site_server(path, quiet):
        yield quiet


def test_a_site_answers_what_its_daemon_says(daemon: QuietSite, path: Path) -> None:
    """Every answer crosses the socket unchanged: options left out, empty lists, zeros and letters of any language."""
    with SiteClient(path) as client:
        assert client.status() == SITE
        assert client.plans() == PLANS
        assert client.ledger() == LEDGER
        assert (client.pause().state, client.resume().state) == ("paused", "running")


def test_a_decision_reaches_the_daemon(daemon: QuietSite, path: Path) -> None:
    """A plan is named by its beginning; the reason arrives whole."""
    with SiteClient(path) as client:
        approved = client.approve(PLAN[:8])
        refused = client.refuse(PLAN[:8], reason="not this quarter: \u00e4\u00f6")

    assert (approved.decision, refused.decision, daemon.reasons) == (
        "approved",
        "refused",
        ["not this quarter: \u00e4\u00f6"],
    )


def test_a_coordinator_answers_what_its_daemon_says(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Status, runs and orders cross the socket; a relative folder is made absolute where the command stands."""
    quiet = QuietCoordinator()
    with coordinator_server(path, quiet), CoordinatorClient(path) as client:
        monkeypatch.chdir(path.parent)

        began = client.run(Path("job"))

        assert (client.status(), client.runs()) == (COORDINATOR, (RUN,))
        assert (began.state, client.stop("a").state, client.resume("b").run) == ("waiting", "stopped", "b")
        assert quiet.jobs == [path.parent / "job"]


def test_an_input_error_keeps_its_class_and_parts(daemon: QuietSite, path: Path) -> None:
    """The command can exit with 2 and say what to do."""
    with SiteClient(path) as client, pytest.raises(InputError) as no:
        client.approve("99")

    assert (no.value.place, no.value.found, no.value.expected, no.value.remedy) == (
        "plan",
        "99",
        "one plan",
        "see plans",
    )


@pytest.mark.parametrize(
    ("error", "kind", "code"),
    [
        (Refused("rule_stands", reason="why", remedy="how"), Refused, 2),
        (ModelError("base", found="a", expected="b"), ModelError, 2),
        (TryAgain("the disk is full"), TryAgain, 75),
        (RoundAborted("too few"), RoundAborted, 1),
    ],
)
def test_an_error_of_ours_arrives_as_itself(
    daemon: QuietSite, path: Path, error: PartsongError, kind: type[PartsongError], code: int
) -> None:
    """Class, text and exit code are those at the daemon."""
    daemon.failing = lambda: error

    with SiteClient(path) as client, pytest.raises(kind) as no:
        client.plans()

    assert (type(no.value), str(no.value), no.value.exit_code) == (kind, str(error), code)


def test_the_text_of_a_foreign_error_stays_at_the_daemon(daemon: QuietSite, path: Path) -> None:
    """A library's message may quote a record; its type's name is all that crosses."""
    daemon.failing = lambda: ValueError("cannot tokenize 'fracture of the left wrist'")

    with SiteClient(path) as client, pytest.raises(PartsongError) as no:
        client.plans()

    assert str(no.value) == "the daemon failed: ValueError"


def test_a_very_long_error_is_cut_and_still_arrives(daemon: QuietSite, path: Path) -> None:
    """Parts are cut to fit a trailer."""
    daemon.failing = lambda: InputError("p" * 9000, found="f" * 9000, expected="e" * 9000, remedy="r" * 9000)

    with SiteClient(path) as client, pytest.raises(InputError) as no:
        client.plans()

    assert (no.value.place, no.value.remedy) == ("p" * 497 + "...", "r" * 497 + "...")


def test_without_a_daemon_the_command_says_how_to_start_one(path: Path) -> None:
    """Neither a missing directory nor an empty one is an error of another kind; the exit code is 75."""
    with pytest.raises(NoDaemon, match="partsong site up") as no, SiteClient(path):
        pass
    path.parent.mkdir(parents=True, mode=0o700)
    with pytest.raises(NoDaemon, match="partsong coordinator up"), CoordinatorClient(path):
        pass

    assert no.value.exit_code == 75


def test_after_the_daemon_stopped_an_open_client_says_so(path: Path) -> None:
    """A connection that outlives the daemon gives the same error."""
    with contextlib.ExitStack() as both:
        with site_server(path, QuietSite()):
            client = both.enter_context(SiteClient(path))
            client.status()

        with pytest.raises(NoDaemon):
            client.status()


def test_a_slow_answer_ends_at_the_deadline(daemon: QuietSite, path: Path) -> None:
    """The command gives up with exit code 75; the daemon goes on."""
    daemon.slow = threading.Event()

    with SiteClient(path, deadline_s=0.2) as client, pytest.raises(TryAgain, match="no answer in time"):
        client.ledger()

    daemon.slow.set()
    with SiteClient(path) as other:
        assert other.status() == SITE


def test_an_answer_that_says_too_little_is_refused(daemon: QuietSite, path: Path) -> None:
    """A status without its state, as from a daemon of another version, is no status."""
    daemon.now = replace(SITE, state="later")  # type: ignore[arg-type]

    with SiteClient(path) as client, pytest.raises(PartsongError, match="the daemon failed: ValueError"):
        client.status()


def test_watching_gives_events_until_the_daemon_stops(path: Path) -> None:
    """Events come in order; the end of the daemon ends the watch without an error."""
    quiet = QuietSite()
    server = site_server(path, quiet)
    server.__enter__()
    with SiteClient(path) as client:
        seen = []
        for event in _after_start(client, quiet):
            seen.append((event.event, dict(event.facts)))
            if event.event == "started":
                quiet.feed.tell("training", round=2, step=3, took_s=0.5, site="north", ok=True)
                threading.Thread(target=server.__exit__, args=(None, None, None)).start()

    assert seen[0] == ("started", {})
    assert seen[-1] == ("training", {"round": 2, "step": 3, "took_s": 0.5, "site": "north", "ok": True})


def _after_start(client: SiteClient, quiet: QuietSite) -> Iterator[object]:
    """Watch, and tell `started` once somebody watches."""
    done = threading.Event()

    def tell() -> None:
        while not quiet.feed.watched:
            done.wait(0.01)
        quiet.feed.tell("started")

    teller = threading.Thread(target=tell)
    teller.start()
    yield from client.watch()
    teller.join()


def test_a_reader_that_stops_reading_holds_nobody_up(daemon: QuietSite, path: Path) -> None:
    """Its queue is bounded, the daemon tells on without waiting, others are answered, and it learns what it lost."""
    with SiteClient(path) as slow, SiteClient(path) as other:
        events = _after_start(slow, daemon)
        assert next(events).event == "started"  # type: ignore[attr-defined]

        for number in range(60 * LONGEST_QUEUE):
            daemon.feed.tell("training", step=number)

        assert other.status() == SITE
        daemon.feed.close()
        told = list(events)
        lost = sum(event.facts["lost"] for event in told if event.event == "events_lost")  # type: ignore[attr-defined]
        steps = [event.facts["step"] for event in told if event.event == "training"]  # type: ignore[attr-defined]
        assert lost > 0
        assert lost + len(steps) == 60 * LONGEST_QUEUE
        assert steps == sorted(steps)


def test_a_watcher_that_leaves_makes_room(daemon: QuietSite, path: Path) -> None:
    """More watchers may come and go than may watch at once."""
    for _ in range(MOST_WATCHERS + 2):
        with SiteClient(path) as client:
            assert next(_after_start(client, daemon)).event == "started"  # type: ignore[attr-defined]
        while daemon.feed.watched:
            threading.Event().wait(0.01)

    with SiteClient(path) as client:
        assert client.status() == SITE


def test_a_request_that_is_too_large_is_dropped(daemon: QuietSite, path: Path) -> None:
    """The daemon does not take it in, and answers the next."""
    with SiteClient(path) as client:
        with pytest.raises(TryAgain, match="too large"):
            client.refuse(PLAN, reason="x" * MOST_REQUEST_BYTES)

        assert daemon.reasons == []
        assert client.refuse(PLAN, reason="x" * (MOST_REQUEST_BYTES - 200)).decision == "refused"


def test_a_job_folder_that_is_relative_is_refused(path: Path) -> None:
    """A dashboard that sends one learns why; the daemon's own folder is not meant."""
    with coordinator_server(path, QuietCoordinator()), _channel(path) as channel:
        with pytest.raises(grpc.RpcError) as no:
            stubs.CoordinatorControlStub(channel).Run(pb.RunRequest(job="job"), timeout=10)

        assert no.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def _channel(path: Path) -> grpc.Channel:
    """What a dashboard would open, by the short name that the system gives an open folder."""
    handle = os.open(path.parent, os.O_RDONLY)
    credentials = grpc.local_channel_credentials(grpc.LocalConnectionType.UDS)
    return grpc.secure_channel(f"unix:/proc/self/fd/{handle}/daemon.sock", credentials)


@pytest.mark.parametrize("ok", [True, False])
def test_the_health_service_says_whether_the_daemon_is_ready(path: Path, *, ok: bool) -> None:
    """gRPC's standard question gets the conjunction of the conditions, for the whole and for the service."""
    quiet = QuietSite(now=replace(SITE, checks=(*SITE.checks, Check(name="policy", ok=ok))))
    with site_server(path, quiet) as server, _channel(path) as channel:
        ask = HealthStub(channel).Check

        answers = {ask(HealthCheckRequest(service=name), timeout=10).status for name in ("", SITE_SERVICE)}

        assert answers == {HealthCheckResponse.SERVING if ok else HealthCheckResponse.NOT_SERVING}
        quiet.now = SITE
        server.refresh_health()
        assert ask(HealthCheckRequest(), timeout=10).status == HealthCheckResponse.SERVING
        with pytest.raises(grpc.RpcError):
            ask(HealthCheckRequest(service=COORDINATOR_SERVICE), timeout=10)


def test_a_socket_left_by_a_killed_daemon_is_replaced(path: Path) -> None:
    """After kill -9 the lock is free, the stale socket is taken away, and a new daemon answers."""
    program = textwrap.dedent(f"""
        import socket, sys
        from pathlib import Path
        from partsong.common.control import socket_file
        with socket_file.claimed(Path({str(path)!r})) as name:
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(name.path)
            listener.listen()
            print("up", flush=True)
            sys.stdin.read()
    """)
    first = subprocess.Popen([sys.executable, "-P", "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with first:
        assert first.stdout is not None
        assert first.stdout.readline() == b"up\n"
        with pytest.raises(TryAgain, match="another daemon runs"), site_server(path, QuietSite()):
            pass
        first.send_signal(signal.SIGKILL)
        first.wait()
        assert path.is_socket()
        with pytest.raises(NoDaemon), SiteClient(path):
            pass

        with site_server(path, QuietSite()), SiteClient(path) as client:
            assert client.status() == SITE


def test_two_daemons_of_one_process_share_no_directory(daemon: QuietSite, path: Path) -> None:
    """The second is refused and the first goes on answering."""
    with pytest.raises(TryAgain, match="another daemon runs"), site_server(path, QuietSite()):
        pass

    with SiteClient(path) as client:
        assert client.status() == SITE


def test_a_stopped_daemon_leaves_the_directory_free(path: Path) -> None:
    """No socket and no lock stays, so the next one starts."""
    for _ in range(2):
        with site_server(path, QuietSite()), SiteClient(path) as client:
            assert client.status() == SITE
        assert not path.exists()
