"""Requests over HTTPS."""

import gzip
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from flwr.proto.fleet_pb2 import ActivateNodeRequest, PullMessagesRequest
from flwr.proto.node_pb2 import Node
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor
from transport_fixtures import Authority

from partsong.client.link import channel as channel_module
from partsong.client.link.channel import Channel, ClientTls, Declined, Unreachable
from partsong.common.errors import InputError, WireError

PATH = "/v1/fleet/pull-messages"


@pytest.fixture
def link(fleet_end: Any, tmp_path: Path) -> Iterator[Any]:
    authority = Authority(tmp_path)
    made = fleet_end.Superlink(authority)
    made.authority = authority
    made.tls = fleet_end.tls_of(authority)
    yield made
    made.stop()


@pytest.fixture
def channel(link: Any) -> Iterator[Channel]:
    made = Channel(address=f"127.0.0.1:{link.port}", tls=link.tls, proxy=None, clock=time.time)
    yield made
    made.close()


def test_an_answer_is_read_up_to_its_limit(link: Any, channel: Channel) -> None:
    """A byte more, and it is dropped."""
    link.intercept = lambda _path: (200, {}, b"x" * 1000)

    body = channel.post(PATH, b"", most_bytes=1000)

    assert body == b"x" * 1000
    with pytest.raises(WireError, match="longer than 999"):
        channel.post(PATH, b"", most_bytes=999)


def test_nothing_is_decompressed(link: Any, channel: Channel) -> None:
    """A thousand bytes stay a thousand bytes, whatever they are said to be."""
    small = gzip.compress(bytes(1_000_000))
    link.intercept = lambda _path: (200, {"content-encoding": "gzip"}, small)

    body = channel.post(PATH, b"", most_bytes=2000)

    assert body == small
    assert link.headers["accept-encoding"] == "identity"


def test_a_redirect_is_not_followed(link: Any, channel: Channel) -> None:
    """Not even on the same host."""
    link.intercept = lambda _path: (307, {"location": f"https://127.0.0.1:{link.port}/elsewhere"}, b"")

    with pytest.raises(Declined, match="307"):
        channel.post(PATH, b"", most_bytes=10)

    assert link.paths == [PATH]


@pytest.mark.parametrize("status", [500, 502, 503, 504, 408, 425, 429])
def test_what_passes_may_be_tried_again(link: Any, channel: Channel, status: int) -> None:
    """Server errors, and client errors that mean: later."""
    link.intercept = lambda _path: status

    with pytest.raises(Unreachable, match=str(status)):
        channel.post(PATH, b"", most_bytes=10)


@pytest.mark.parametrize(
    ("status", "body", "code", "is_stranger"),
    [
        (401, b"", "", True),
        (403, b'{"code": "not_enrolled"}', "not_enrolled", True),
        (403, b'{"code": "not_asked"}', "not_asked", False),
        (403, b'{"code":2007,"public_message":"x"}', "2007", False),
        (404, b"not_enrolled", "", False),
        (413, b'{"code": "' + b"x" * 5000, "", False),
    ],
)
def test_a_refusal_says_whether_it_is_about_the_site(
    link: Any, channel: Channel, status: int, body: bytes, code: str, *, is_stranger: bool
) -> None:
    """Or about the message; a short name comes along, and nothing long does."""
    link.intercept = lambda _path: (status, {}, body)

    with pytest.raises(Declined) as found:
        channel.post(PATH, b"", most_bytes=10)

    assert (found.value.status, found.value.code, found.value.is_stranger) == (status, code, is_stranger)


def test_requests_are_signed_as_flowers_own_client_signs_them(link: Any, channel: Channel) -> None:
    """Both are admitted, and name the same key in headers of the same names."""
    node = link.let_in(link.tls)
    request = ActivateNodeRequest(public_key=channel.public_key, heartbeat_interval=30)
    poll = PullMessagesRequest(node=Node(node_id=node)).SerializeToString()

    channel.post("/v1/fleet/activate-node", request.SerializeToString(), most_bytes=1000)
    channel.post(PATH, poll, most_bytes=1000)
    ours = link.headers
    key = load_pem_private_key(link.tls.key.read_bytes(), None)
    interceptor = NodeAuthHttpInterceptor(key, key.public_key())
    context = link.authority.trust(link.authority.hold("another"))
    with FleetHttpClient(f"https://127.0.0.1:{link.port}", verify=context, interceptors=[interceptor]) as flower:
        flower.PullMessages(PullMessagesRequest(node=Node(node_id=node)))
    theirs = link.headers

    assert link.paths == ["/v1/fleet/activate-node", PATH, PATH]
    for name in ("flwr-public-key", "content-type", "accept"):
        assert ours[name] == theirs[name]
    assert {name for name in theirs if name.startswith("flwr-")} == {n for n in ours if n.startswith("flwr-")}


def test_a_renewed_certificate_is_used_after_the_next_failure(link: Any, channel: Channel) -> None:
    """No restart: the files are read again when the connection is made anew."""
    link.intercept = lambda _path: (200, {}, b"")
    channel.post(PATH, b"", most_bytes=10)
    link.tls.certificate.write_bytes(b"not yet written")
    channel.close()

    with pytest.raises(Unreachable, match="SSLError"):
        channel.post(PATH, b"", most_bytes=10)
    link.authority.hold("north", key=load_pem_private_key(link.tls.key.read_bytes(), None))

    assert channel.post(PATH, b"", most_bytes=10) == b""


@pytest.mark.parametrize("key", ["none", "p384", "text"])
def test_a_key_of_another_kind_stops_the_start(link: Any, tmp_path: Path, key: str) -> None:
    """P-256 it is: one key for the certificate and for Flower."""
    path = tmp_path / "other.key"
    if key == "p384":
        pem = ec.generate_private_key(ec.SECP384R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        path.write_bytes(pem)
    if key == "text":
        path.write_text("hello")
    tls = ClientTls(certificate=link.tls.certificate, key=path, authority=link.tls.authority)

    with pytest.raises(InputError, match="P-256"):
        Channel(address="127.0.0.1:1", tls=tls, proxy=None, clock=time.time)


@pytest.mark.parametrize(
    ("said", "waits_s"),
    [("5", 5.0), ("0", 0.0), ("999999999", 30.0), ("-1", 0.0), ("soon", 0.0), ("\u00b2", 0.0), (None, 0.0)],
)
def test_a_site_that_is_told_to_come_later_does_within_bounds(said: str | None, waits_s: float) -> None:
    """A coordinator cannot send it away for good."""
    headers = {} if said is None else {"retry-after": said.encode()}

    assert channel_module._asked_pause_s(httpx.Response(503, headers=headers)) == waits_s
