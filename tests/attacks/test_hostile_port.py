"""Whatever answers at the coordinator's address: no answer of it costs a site memory, time without end, or itself."""

import contextlib
import dataclasses
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hostile import beside_client, fleet_end
from transport_fixtures import Authority

from partsong.client.link import channel
from partsong.client.link.channel import Channel, ClientTls, Declined, Unreachable
from partsong.client.link.questions import Question, Reply
from partsong.common.errors import WireError

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/protobuf\r\n"


@dataclasses.dataclass
class Impostor:
    """A server with the coordinator's certificate that says what a test tells it to."""

    authority: Authority
    say: Callable[[ssl.SSLSocket], None] = lambda _peer: None
    port: int = 0
    requests: int = 0
    ending: threading.Event = dataclasses.field(default_factory=threading.Event)

    def handle(self, raw: socket.socket, context: ssl.SSLContext) -> None:
        with contextlib.suppress(OSError), context.wrap_socket(raw, server_side=True) as peer:
            peer.settimeout(5)
            while peer.recv(1 << 16):
                self.requests += 1
                self.say(peer)


@pytest.fixture
def impostor(tmp_path: Path) -> Iterator[Impostor]:
    with impostor_at(Authority(tmp_path)) as made:
        yield made


@contextmanager
def impostor_at(authority: Authority) -> Iterator[Impostor]:
    held = authority.hold("impostor", server=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(held.certificate_file, held.key_file)
    made, threads = Impostor(authority), []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        made.port = listener.getsockname()[1]

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    raw, _ = listener.accept()
                    threads.append(threading.Thread(target=made.handle, args=(raw, context)))
                    threads[-1].start()

        accepting = threading.Thread(target=accept)
        accepting.start()
        yield made
        made.ending.set()
        listener.shutdown(socket.SHUT_RDWR)
        accepting.join()
    for thread in threads:
        thread.join()


def connected(impostor: Impostor, **changes: Any) -> Channel:
    held = impostor.authority.hold("north")
    tls = ClientTls(certificate=held.certificate_file, key=held.key_file, authority=impostor.authority.file)
    return Channel(address=f"localhost:{impostor.port}", tls=tls, proxy=None, clock=time.time, **changes)


def post(made: Channel, *, most_bytes: int = 1 << 20) -> bytes:
    with contextlib.closing(made):
        return made.post("/v1/fleet/pull-messages", b"", most_bytes=most_bytes)


def test_ten_gigabytes_are_not_read(impostor: Impostor) -> None:
    """Announced or not: the site reads a little more than it asked for and hangs up."""
    sent = 0

    def flood(peer: ssl.SSLSocket) -> None:
        nonlocal sent
        peer.sendall(ANSWER + b"content-length: 10000000000\r\n\r\n")
        while not impostor.ending.is_set():
            peer.sendall(bytes(1 << 16))
            sent += 1 << 16

    impostor.say = flood

    with pytest.raises(WireError) as refused:
        post(connected(impostor))

    impostor.ending.set()
    assert refused.value.rule == "message.size"
    assert sent < 64 << 20


def test_without_the_limit_all_of_it_is_read(impostor: Impostor) -> None:
    """The control, with four megabytes."""
    impostor.say = lambda peer: peer.sendall(ANSWER + b"content-length: 4194304\r\n\r\n" + bytes(1 << 22))

    assert len(post(connected(impostor), most_bytes=1 << 23)) == 1 << 22


DRIPS = {
    "header": b"HTTP/1.1 200 OK\r\nx: ",
    "body": ANSWER + b"content-length: 100000\r\n\r\n",
    "chunks": ANSWER + b"transfer-encoding: chunked\r\n\r\n186a0\r\n",
}


def dripping(impostor: Impostor, start: bytes, *, drops: int | None = None) -> None:
    def drip(peer: ssl.SSLSocket) -> None:
        peer.sendall(start)
        left = drops
        while not impostor.ending.wait(0.02) and left != 0:
            peer.sendall(b"x")
            left = None if left is None else left - 1

    impostor.say = drip


@pytest.mark.parametrize("where", DRIPS)
def test_an_answer_that_comes_byte_by_byte_is_cut_off(impostor: Impostor, where: str) -> None:
    """Each byte comes in time; the whole request does not. The next request is made anew."""
    dripping(impostor, DRIPS[where])
    made = connected(impostor, request_s=0.3)

    with pytest.raises(Unreachable):
        post(made)

    impostor.say = lambda peer: peer.sendall(ANSWER + b"content-length: 2\r\n\r\nok")
    assert post(made) == b"ok"


def test_without_the_cut_such_an_answer_is_waited_for(impostor: Impostor, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: fifty drops, for three times as long as a request may take."""
    dripping(impostor, ANSWER + b"content-length: 50\r\n\r\n", drops=50)
    monkeypatch.setattr(channel.Channel, "cut", lambda _channel: None)

    assert len(post(connected(impostor, request_s=0.3))) == 50


def test_a_redirect_is_not_followed(impostor: Impostor) -> None:
    """To itself or elsewhere, once or without end: it is a refusal, and one request was made."""
    impostor.say = lambda peer: peer.sendall(
        f"HTTP/1.1 307 Temporary Redirect\r\nlocation: https://localhost:{impostor.port}/again\r\n"
        "content-length: 0\r\n\r\n".encode()
    )

    with pytest.raises(Declined, match="307"):
        post(connected(impostor))

    assert impostor.requests == 1


def test_without_that_a_redirect_goes_on_without_end(impostor: Impostor, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: httpx follows twenty times, if it is let."""
    client = channel.httpx.Client
    impostor.say = lambda peer: peer.sendall(
        f"HTTP/1.1 307 Temporary Redirect\r\nlocation: https://localhost:{impostor.port}/again\r\n"
        "content-length: 0\r\n\r\n".encode()
    )
    monkeypatch.setattr(channel.httpx, "Client", lambda **more: client(**more, follow_redirects=True))

    with pytest.raises(channel.httpx.TooManyRedirects):
        post(connected(impostor))

    assert impostor.requests > 10


def test_after_an_impostor_the_site_serves_the_coordinator(impostor: Impostor, tmp_path: Path) -> None:
    """The same running connection, led from one to the other; what was said in between is dropped by name."""
    end, relay_to = fleet_end(), beside_client("networks").Relay
    tls = end.tls_of(impostor.authority)
    impostor.say = lambda peer: peer.sendall(ANSWER + b"content-length: 10000000000\r\n\r\n" + bytes(1 << 21))
    link = end.Superlink(impostor.authority)
    node = link.let_in(tls)
    (tmp_path / "site").mkdir()
    with relay_to(impostor.port) as relay:
        with end.Running(relay.port, tls, tmp_path / "site", reply) as site:
            refused = site.until_told("refused")
            relay.lead_to(link.port)
            site.until_told("connected")
            question = link.ask(node)
            site.until_told("sent")
        assert link.answer(question) is not None
    link.stop()
    assert "longer than" in refused.reason


def reply(question: Question) -> Reply:
    return Reply(fields={"header": b"re: " + bytes(question.fields["header"])})
