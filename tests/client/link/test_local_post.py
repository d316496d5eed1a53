"""Questions that a stock SuperNode's ClientApp hands to the daemon, over a socket of the site's folder."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Context
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from partsong.client.app import make_forwarding_app
from partsong.client.link import local_post
from partsong.client.link.local_post import LocalPost, SiteFailed, ask
from partsong.client.link.questions import Handle, Question, Reply, Told, signed
from partsong.client.secure_sum.door import Answer
from partsong.common.errors import Refused, TryAgain, WireError
from partsong.common.identity.envelope import SiteEnvelope
from partsong.common.identity.keys import Identity
from partsong.server.daemon.behind_superlink import GridLink
from partsong.server.exchange import Parcel
from partsong.server.rounds import Loss
from partsong.simulations.local_grid import LocalGrid

FIELDS = {"version": 1, "run": "run 1", "site": "north", "header": b"h", "signature": b"s"}
COORDINATOR, NORTH, SOUTH = (Identity(bytes([number]) * 32) for number in (1, 2, 3))


def question(**changes: Any) -> Question:
    values: dict[str, Any] = {"message": "ab", "run": 7, "kind": "open", "fields": FIELDS, "vector": b"v", "note": b"n"}
    return Question(**values | changes)


@contextmanager
def answering(path: Path, handle: Handle) -> Iterator[list[Told]]:
    """A daemon's post at work; gives what it tells."""
    told: list[Told] = []
    up, stop = threading.Event(), threading.Event()

    def listen(what: Told) -> None:
        told.append(what)
        up.set()

    thread = threading.Thread(target=LocalPost(path, listen=listen).run, args=(handle,), kwargs={"stop": stop})
    thread.start()
    assert up.wait(30)
    try:
        yield told
    finally:
        stop.set()
        thread.join()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "supernode" / "site.sock"


def echo(asked: Question) -> Reply:
    return Reply(fields={**asked.fields, "site": "back"}, vector=asked.vector[::-1], note=asked.note)  # type: ignore[dict-item]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(header=st.binary(), vector=st.binary(), note=st.binary(), run=st.text(max_size=50), number=st.integers(0, 2**64))
def test_what_is_asked_and_answered_passes_to_the_last_byte(
    tmp_path_factory: pytest.TempPathFactory, header: bytes, vector: bytes, note: bytes, run: str, number: int
) -> None:
    """Also empty parts."""
    path = tmp_path_factory.mktemp("post") / "supernode" / "site.sock"
    asked: list[Question] = []

    def handle(got: Question) -> Reply:
        asked.append(got)
        return echo(got)

    put = question(fields={**FIELDS, "header": header, "run": run}, vector=vector, note=note, run=number)
    with answering(path, handle):
        reply = ask(path, put)

    assert asked == [put]
    assert reply == echo(put)


def test_a_failure_of_the_site_says_nothing_but_that(path: Path) -> None:
    """The exception is told at the site, and the next question is answered."""

    def fail(_question: Question) -> Reply:
        raise ValueError("patient Smith")

    with answering(path, fail) as told, pytest.raises(SiteFailed) as failed:
        ask(path, question())

    assert "Smith" not in str(failed.value)
    assert [str(one.error) for one in told if one.what == "failed"] == ["patient Smith"]


def test_without_a_daemon_the_question_may_be_asked_again(path: Path) -> None:
    """Neither where none ever was, nor where one has ended."""
    with pytest.raises(TryAgain, match="behind-supernode"):
        ask(path, question())
    with answering(path, echo):
        pass

    with pytest.raises(TryAgain, match="behind-supernode"):
        ask(path, question())


def test_only_the_owner_reaches_the_socket(path: Path) -> None:
    """Folder and socket are the owner's alone; one that was opened to others is not used."""
    with answering(path, echo):
        modes = [path.parent.stat().st_mode & 0o777, path.stat().st_mode & 0o777]
        path.parent.chmod(0o755)
        with pytest.raises(Refused, match="control_folder"):
            ask(path, question())
        path.parent.chmod(0o700)

    assert modes == [0o700, 0o600]


@pytest.mark.parametrize(
    "said",
    [b"\x00\x00\x00\x02[]", b"\x00\x00\x00\x01x", b"\x7f\xff\xff\xff", b"\x00\x00\x00\x02{}" + b"\x00" * 16, b"\xff"],
    ids=["no fields", "no JSON", "too long", "no names", "cut"],
)
def test_what_is_no_question_is_dropped_and_the_next_is_answered(
    path: Path, said: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever another program of the same user writes to the socket."""
    with answering(path, echo) as told:
        with socket.socket(socket.AF_UNIX) as caller:
            monkeypatch.chdir(path.parent)
            caller.connect(path.name)
            caller.sendall(said)
        assert ask(path, question()) == echo(question())

    assert [one.what for one in told].count("dropped") == 1


def test_a_caller_that_stays_silent_is_cut_off(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next one gets its turn."""
    monkeypatch.setattr(local_post, "_PART_S", 0.05)
    with answering(path, echo), socket.socket(socket.AF_UNIX) as caller:
        monkeypatch.chdir(path.parent)
        caller.connect(path.name)

        assert ask(path, question()) == echo(question())


def test_a_question_without_signature_is_not_handed_over(path: Path) -> None:
    """Nor anything else that is no signed message."""
    with answering(path, echo) as told, pytest.raises(WireError, match="no header and signature"):
        ask(path, question(fields={**FIELDS, "signature": "s"}))

    assert "arrived" not in [one.what for one in told]


def link(path: Path, nodes: dict[int, str]) -> tuple[GridLink, LocalGrid]:
    """The coordinator's side: two nodes whose ClientApps hand their messages to one daemon, that of north."""

    def forward(asked: Question, _context: Context) -> Reply:
        return ask(path, asked)

    grid = LocalGrid(make_forwarding_app(forward), ("north", "south"))
    return GridLink(grid, nodes), grid


def north(header: bytes, *, vector: bytes, note: bytes) -> Answer:
    return Answer(header=b"re: " + header, vector=vector[::-1], note=note)


def asked_over(path: Path, nodes: dict[int, str]) -> dict[str | None, Parcel | Loss]:
    made, grid = link(path, nodes)
    handle = signed(SiteEnvelope(site="north", signer=NORTH, coordinator=COORDINATOR.public_key), north)
    keys = {"north": NORTH.public_key, "south": SOUTH.public_key}
    with answering(path, handle):
        exchange = made.exchange(run="run 1", signer=COORDINATOR, identity_keys=keys)
        parcels = {node: Parcel(header=b"h", vector=b"123", note=b"n") for node in exchange.addresses()}
        got = {exchange.site_at(node): answer for node, answer in exchange.ask(parcels, phase="open", timeout_s=5.0)}
    grid.close()
    return got


def test_over_a_grid_of_flower_messages_are_signed_both_ways(path: Path) -> None:
    """A node without a name is sent nothing."""
    assert asked_over(path, {2: "north"}) == {
        "north": Parcel(header=b"re: h", vector=b"321", note=b"n"),
        None: Loss.SILENT,
    }


def test_a_node_under_another_sites_name_answers_nothing(path: Path) -> None:
    """It gets letters to that site, which its daemon does not open."""
    assert asked_over(path, {2: "south"})["south"] is Loss.FAILED


def test_who_is_connected_is_who_has_a_name(path: Path) -> None:
    """The other nodes of the federation are not this consortium's."""
    made, grid = link(path, {2: "north", 9: "west"})

    assert made.connected() == ("north",)
    grid.close()
