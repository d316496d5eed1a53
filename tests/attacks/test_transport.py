"""A hostile peer at the coordinator's port: each is refused by name or cut off, and the other sites go on."""

import os
import socket
import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.proto.message_pb2 import Message as MessageProto
from flwr.proto.message_pb2 import Metadata, ObjectTree
from transport_fixtures import Authority

from partsong.server.exchange import Parcel
from partsong.server.link.gate import Limits
from partsong.server.rounds import Loss

OpenPort = Callable[..., Any]
BRIEF = Limits(linger_s=0.05)
HEAD = b"POST /v1/fleet/pull-messages HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/protobuf\r\n"


def tls(port: Any, site: str = "north", *, timeout_s: float = 20) -> ssl.SSLSocket:
    """A bare connection of a site."""
    raw = socket.create_connection(("127.0.0.1", port.superlink.port), timeout=timeout_s)
    return port.stack.enter_context(port.trust(site).wrap_socket(raw, server_hostname="localhost"))


def everything(peer: ssl.SSLSocket) -> bytes:
    """What the other side sends until it closes."""
    found = b""
    try:
        while data := peer.recv(1 << 16):
            found += data
    except (ConnectionError, ssl.SSLError):
        pass
    return found


def answers(port: Any, *sites: str, hostile: dict[str, Callable[[Message], Message]]) -> dict[str, Parcel | Loss]:
    """Ask all sites; the hostile ones answer with what their function makes of the question."""
    exchange = port.exchange()
    connected = {site: port.connect(site) for site in sites}

    def play(site: str) -> None:
        own = connected[site]
        if site not in hostile:
            own.serve(port.app(site))
        elif (question := own.pull()) is not None:
            own.confirm(question)
            own.context(question)
            own.push(hostile[site](question))

    def quiet(site: str) -> None:
        try:
            play(site)
        except httpx.HTTPStatusError as err:
            port.errors.append(err)

    threads = [threading.Thread(target=quiet, args=(site,)) for site in sites]
    for thread in threads:
        thread.start()
    nodes = port.nodes(exchange)
    found = dict(exchange.ask({nodes[s]: Parcel(header=b"h") for s in sites}, phase="roster", timeout_s=60))
    for thread in threads:
        thread.join()
    return {site: found[nodes[site]] for site in sites}


@pytest.mark.parametrize("case", ["none", "foreign authority", "foreign authority with a listed key", "server's"])
def test_a_wrong_certificate_ends_at_the_handshake(open_port: OpenPort, tmp_path: Path, case: str) -> None:
    """No request of such a peer is read, and a site with the right one is served."""
    port = open_port("north")
    (foreign_home := tmp_path / "foreign").mkdir()
    foreign = Authority(foreign_home, "foreign")
    held = {
        "none": None,
        "foreign authority": foreign.hold("north"),
        "foreign authority with a listed key": foreign.hold("north", key=port.sites["north"].key),
        "server's": port.server,
    }[case]

    with pytest.raises(httpx.TransportError):
        port.stranger(port.authority.trust(held)).activate()

    assert port.refusals == []
    assert port.connect("north").heartbeat()


def test_a_certificate_of_our_authority_is_not_enough(open_port: OpenPort) -> None:
    """Its key must be enrolled: a certificate that was issued for anything else opens nothing."""
    port = open_port("north")
    other = port.stranger(port.authority.trust(port.authority.hold("other")))

    with pytest.raises(httpx.HTTPStatusError) as caught:
        other.activate()

    assert (caught.value.response.status_code, caught.value.response.json()) == (403, {"code": "not_enrolled"})
    assert port.refusals == [("", "not_enrolled")]


def test_old_tls_is_not_spoken(open_port: OpenPort) -> None:
    """1.3 where the peer has it, 1.2 at the least."""
    port = open_port("north")
    new, old = port.trust("north"), port.trust("north")
    old.maximum_version = ssl.TLSVersion.TLSv1_2

    versions = []
    for trust in (new, old):
        with (
            socket.create_connection(("127.0.0.1", port.superlink.port), timeout=20) as raw,
            trust.wrap_socket(raw, server_hostname="localhost") as peer,
        ):
            versions.append(peer.version())

    assert versions == ["TLSv1.3", "TLSv1.2"]
    assert port.superlink._listener._context.minimum_version == ssl.TLSVersion.TLSv1_2


@pytest.mark.parametrize(
    "path",
    [
        "/v1/control/start-run", "/v1/control/register-node", "/v1/runtime/acquire-task", "/v1/runtime/push-messages",
        "/v1/fleet/register-node", "/v1/fleet/unregister-node", "/v1/fleet/get-fab", "/v1/fleet/get-run",
        "/docs", "/openapi.json", "/health", "/", "/v1/fleet/", "/v1/fleet/pull-messages?x=1",
        "/v1/fleet/../control/start-run", "/v1/fleet/%2e%2e/control/start-run", "//v1/fleet/pull-messages",
    ],
)  # fmt: skip
def test_no_other_path_exists(open_port: OpenPort, path: str) -> None:
    """Neither the control of Flower's runs nor bundles of code nor any spelling that leads elsewhere."""
    port = open_port("north", limits=BRIEF)
    peer = tls(port)

    peer.sendall(f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\n\r\n".encode())

    said = everything(peer)
    assert said.startswith(b"HTTP/1.1 404 ")
    assert said.endswith(b'{"code": "no_such_path"}')


def test_ten_gigabytes_are_refused_when_they_are_announced(open_port: OpenPort) -> None:
    """Before a byte of them is read."""
    port = open_port("north", limits=BRIEF)
    peer = tls(port)

    peer.sendall(HEAD.replace(b"pull-messages", b"push-object") + b"content-length: 10737418240\r\n\r\n")

    said = everything(peer)
    assert said.startswith(b"HTTP/1.1 413 ")
    assert port.refusals == [("north", "too_large")]


def test_a_body_without_a_length_is_cut_at_the_limit(open_port: OpenPort) -> None:
    """Chunk after chunk, until it is more than the path takes."""
    port = open_port("north", limits=BRIEF)
    peer = tls(port)
    peer.sendall(HEAD + b"transfer-encoding: chunked\r\n\r\n")

    try:
        for _ in range(40):
            peer.sendall(b"1000\r\n" + bytes(4096) + b"\r\n")
    except (ConnectionError, ssl.SSLError):
        pass
    said = everything(peer)

    assert said.startswith(b"HTTP/1.1 413 ") or said == b""
    assert port.connect("north").heartbeat()


def test_an_answer_larger_than_agreed_counts_as_malformed(open_port: OpenPort) -> None:
    """Its objects are thrown away as soon as their sum is too large; the other site's answer counts."""
    port = open_port("north", "south", max_message_bytes=1 << 20)

    def large(question: Message) -> Message:
        vector = Array(dtype="uint8", shape=(6 << 20,), stype="partsong.raw.v1", data=os.urandom(6 << 20))
        content = RecordDict({"partsong": ConfigRecord({"header": b"h"}), "vector": ArrayRecord({"vector": vector})})
        return Message(content, reply_to=question)

    found = answers(port, "north", "south", hostile={"north": large})

    assert found == {"north": Loss.MALFORMED, "south": Parcel(header=b"answer to h")}
    assert ("north", "too_large") in port.refusals


def test_many_objects_in_one_answer_count_as_malformed(open_port: OpenPort) -> None:
    """A tree of ids costs the coordinator memory before any object has arrived."""
    port = open_port("north")
    north = port.connect("north")
    exchange, got = port.exchange(), list[Any]()
    ask = {port.nodes(exchange)["north"]: Parcel(header=b"h")}
    asking = threading.Thread(target=lambda: got.extend(exchange.ask(ask, phase="open", timeout_s=60)))
    asking.start()
    question = north.pull()
    assert question is not None
    ids = [f"{i:064x}" for i in range(5000)]
    tree = ObjectTree(object_id="f" * 64, children=[ObjectTree(object_id=i) for i in ids])
    said = Metadata(
        run_id=question.metadata.run_id, src_node_id=north.node.node_id,
        reply_to_message_id=question.metadata.message_id, message_id="f" * 64,
    )  # fmt: skip

    with pytest.raises(httpx.HTTPStatusError) as caught:
        north.client.PushMessages(
            PushMessagesRequest(
                node=north.node, messages_list=[MessageProto(metadata=said)], message_object_trees=[tree]
            )
        )
    asking.join()

    assert caught.value.response.json() == {"code": "too_large"}
    assert [answer for _, answer in got] == [Loss.MALFORMED]


def test_garbage_in_place_of_an_answer_costs_its_site_alone(open_port: OpenPort) -> None:
    """Content without a header, and a signature of nothing: the honest site's answer counts."""
    port = open_port("east", "north", "south")
    garbage = {"signature": b"\0" * 64, "header": b"\xff\xfe", "version": 1, "run": "run-1", "site": "north"}

    found = answers(
        port, "east", "north", "south",
        hostile={
            "east": lambda q: Message(RecordDict(), reply_to=q),
            "north": lambda q: Message(RecordDict({"partsong": ConfigRecord({**garbage})}), reply_to=q),
        },
    )  # fmt: skip

    assert found == {"east": Loss.MALFORMED, "north": Loss.MALFORMED, "south": Parcel(header=b"answer to h")}


def test_an_object_that_is_not_what_it_says_is_not_stored(open_port: OpenPort) -> None:
    """Content is named by its hash; anything else is refused, and so is an object that nobody announced."""
    port = open_port("north")
    north = port.connect("north")
    box = port.superlink._all()[0].box
    exchange, got = port.exchange(), list[Any]()
    ask = {port.nodes(exchange)["north"]: Parcel(header=b"h")}
    asking = threading.Thread(target=lambda: got.extend(exchange.ask(ask, phase="open", timeout_s=60)))
    asking.start()
    question = north.pull()
    assert question is not None
    reply = port.app("north")(question, north.context(question))

    assert north.push(reply, objects=0) == []
    wrong = [box.add(question.metadata.message_id, object_id=i, content=b"x") for i in ("0" * 64, reply.object_id)]
    north.push(reply)
    asking.join()

    assert wrong == [False, False]
    assert [answer for _, answer in got] == [Parcel(header=b"answer to h")]


def test_a_flood_is_answered_with_a_refusal_and_others_are_served(open_port: OpenPort) -> None:
    """A site that asks more often than allowed is told so; its neighbour does not notice."""
    port = open_port("north", "south", limits=Limits(requests_per_s=0.001, burst=20, hold_s=0.01))
    north, south = port.connect("north"), port.connect("south")

    seen = []
    for _ in range(25):
        try:
            seen.append(north.heartbeat())
        except httpx.HTTPStatusError as err:
            seen.append(err.response.status_code)

    assert seen == [True] * 19 + [429] * 6
    assert south.heartbeat()


@pytest.mark.parametrize("bound", ["connections_of_address", "connections"])
def test_connections_of_strangers_are_bounded(open_port: OpenPort, bound: str) -> None:
    """Of one address and of all together: those beyond are closed before the handshake, and a place that becomes free
    is given again.
    """
    port = open_port("north", limits=Limits(**{bound: 2}, handshake_s=60))
    listener = port.superlink._listener
    silent = [socket.create_connection(("127.0.0.1", port.superlink.port)) for _ in range(2)]
    full = wait_until(lambda: listener._strangers.total() == 2)

    with pytest.raises((ConnectionError, ssl.SSLError)):
        tls(port)

    for peer in silent:
        peer.close()
    north = port.connect("north") if wait_until(lambda: listener._strangers.total() == 0) else None
    assert full
    assert north is not None


def test_sites_behind_one_address_leave_room_for_each_other(open_port: OpenPort) -> None:
    """Whoever has shown a certificate is no stranger: a hundred sites may come through one proxy."""
    port = open_port("north", "south", limits=Limits(connections_of_address=1))
    listener = port.superlink._listener

    for site in ("north", "south", "north", "south"):
        tls(port, site)
        assert wait_until(lambda: listener._strangers.total() == 0)

    assert port.connect("south").heartbeat()
    assert listener._known.total() == 5


def test_connections_of_one_site_are_bounded(open_port: OpenPort) -> None:
    """One beyond is closed, its neighbour is served, and a place that becomes free is given again."""
    port = open_port("north", "south", limits=Limits(connections_of_site=2))
    listener = port.superlink._listener
    first, second = tls(port), tls(port)
    assert wait_until(lambda: listener._known.total() == 2)

    assert everything(tls(port)) == b""

    assert port.connect("south").heartbeat()
    for peer in (first, second):
        peer.unwrap()
    assert wait_until(lambda: listener._known.total() == 1)
    assert port.connect("north").heartbeat()


def wait_until(done: Callable[[], bool]) -> bool:
    """Let the port's thread come to its turn, for ten seconds at most."""
    deadline = time.monotonic() + 10
    while not done() and time.monotonic() < deadline:
        threading.Event().wait(0.005)
    return done()


SLOW = Limits(header_s=1.0, body_s=1.0)


@pytest.mark.parametrize("said", [b"", b"POST /v1/fl", HEAD, HEAD + b"content-length: 5\r\n\r\nab"])
def test_a_slow_request_is_cut_off(open_port: OpenPort, said: bytes) -> None:
    """In the header, between header and end, or in the body: the connection ends, and others are served meanwhile."""
    port = open_port("north", "south", limits=SLOW)
    peer = tls(port)
    peer.sendall(said)

    rest = everything(peer)

    assert rest == b""
    assert port.connect("south").heartbeat()


def test_a_slow_handshake_is_cut_off(open_port: OpenPort) -> None:
    """A peer that connects and says nothing, or half a greeting."""
    port = open_port("north", limits=Limits(handshake_s=0.3))
    for said in (b"", b"\x16\x03\x01"):
        with socket.create_connection(("127.0.0.1", port.superlink.port), timeout=20) as peer:
            peer.sendall(said)

            assert peer.recv(1) == b""


@pytest.mark.parametrize(
    ("said", "status"),
    [
        (b"\x00\x01\x02\x03\r\n\r\n", b""),
        (b"GET / HTTP/1.1\r\nhost: x\r\n" + b"a: " + b"b" * (1 << 15) + b"\r\n\r\n", b""),
        (b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: -5\r\n\r\n", b""),
        (b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n", b"HTTP/1.1 404 "),
        (b"GET /v1/fleet/pull-messages HTTP/1.1\r\nhost: x\r\n\r\n", b"HTTP/1.1 400 "),
        (HEAD + b"content-length: 4\r\n\r\n\xff\xff\xff\xff", b"HTTP/1.1 400 "),
    ],
)
def test_what_is_no_request_is_not_served(open_port: OpenPort, said: bytes, status: bytes) -> None:
    """Bytes that are no HTTP, headers without an end, and bodies that are no message of Flower."""
    port = open_port("north", limits=Limits(idle_s=1.0, linger_s=0.05))
    peer = tls(port)
    peer.sendall(said)

    rest = everything(peer)

    assert rest.startswith(status)
    assert status or rest == b""
    assert port.connect("north").heartbeat()


def test_a_site_cannot_read_or_confirm_another_sites_mail(open_port: OpenPort) -> None:
    """Not even when it knows the ids: what it confirms or fetches is looked up in its own box."""
    port = open_port("north", "south")
    north, south = port.connect("north"), port.connect("south")
    exchange, got = port.exchange(), list[Any]()
    ask = {port.nodes(exchange)["north"]: Parcel(header=b"h")}
    asking = threading.Thread(target=lambda: got.extend(exchange.ask(ask, phase="open", timeout_s=60)))
    asking.start()
    question = north.pull()
    assert question is not None

    with pytest.raises(KeyError):
        south.object(question.metadata.run_id, question.metadata.message_id)
    with pytest.raises(httpx.HTTPStatusError, match="403"):
        south.confirm(question)
    north.serve(port.app("north"))
    asking.join()

    assert [answer for _, answer in got] == [Parcel(header=b"answer to h")]
