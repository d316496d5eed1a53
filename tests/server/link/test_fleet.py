"""What this server shares with the installed Flower: the contract test of everything internal that it builds on."""

import hashlib
import inspect

import pytest
from flwr.app import ConfigRecord, RecordDict
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode
from flwr.proto.fleet_pb2 import DeactivateNodeRequest
from flwr.supercore.inflatable.inflatable_object import get_object_id
from flwr.supercore.protobuf.constants import PROTOBUF_MEDIA_TYPE
from flwr.supercore.protobuf.translation import PROTOBUF_REQUEST_TYPES
from flwr.supernode.fleet_http_client import FleetHttpClient

from partsong.server import app
from partsong.server.link import fleet
from partsong.server.link.gate import FLEET
from partsong.server.link.postbox import Answer, Postbox
from partsong.server.link.room import Room


def grid(box: Postbox) -> fleet.FleetGrid:
    return fleet.FleetGrid(
        7, boxes=lambda: {3: box}, online=lambda: [3], gone=lambda _: False, posted=lambda _: None, clock=lambda: 0.0
    )


def box() -> Postbox:
    return Postbox(
        max_message_bytes=1000, room=Room(most_bytes=1 << 30, lease_s=1.0, clock=lambda: 0.0), clock=lambda: 0.0
    )


def test_requests_are_those_of_flowers_own_api() -> None:
    """Every path is one of Flower's, with the same type of request, and Flower's client sends it there."""
    source = inspect.getsource(FleetHttpClient)

    for path, (kind, _, _) in fleet._SERVICES.items():
        assert PROTOBUF_REQUEST_TYPES["POST", path] is kind
        assert f'path="{path}"' in source
    left_out = {path for _, path in PROTOBUF_REQUEST_TYPES if path.startswith(FLEET)} - set(fleet.BODY_BYTES)
    assert left_out == {FLEET + name for name in ("register-node", "unregister-node", "get-run", "get-fab")}


def test_constants_are_flowers() -> None:
    """Numbers and names that are written out here."""
    assert PROTOBUF_MEDIA_TYPE == "application/protobuf"
    assert SUPERLINK_NODE_ID == 1
    assert app._ERROR_NODE_UNAVAILABLE == ErrorCode.NODE_UNAVAILABLE
    assert get_object_id(b"x") == hashlib.sha256(b"x").hexdigest()


def test_numbers_of_nodes_are_never_flowers_own() -> None:
    """62 bits, neither 0 nor the server's 1."""
    numbers = {fleet.node_of(bytes([i])) for i in range(200)}

    assert len(numbers) == 200
    assert all(1 < number < 1 << 62 for number in numbers)


def test_a_message_comes_out_as_it_went_in() -> None:
    """Head, tree and objects of a question are those of Flower's message, whose id is its hash."""
    mailbox = box()
    out = grid(mailbox)
    message = out.create_message(RecordDict({"a": ConfigRecord({"b": b"c"})}), "query.keys", 3, "keys", ttl=5.0)

    (message_id,) = out.push_messages([message])

    question = mailbox.next()
    assert question is not None
    assert (question.id, question.run, question.expires_s) == (message_id, 7, 5.0)
    assert all(get_object_id(data) == object_id for object_id, data in question.objects.items())
    assert message_id in question.objects


def test_a_node_without_a_box_is_pushed_nothing() -> None:
    """The id is empty, as in Flower's own grid."""
    out = grid(box())
    message = out.create_message(RecordDict(), "train", 4, "g", ttl=5.0)

    assert out.push_messages([message]) == [""]
    assert out.pull_messages(["", "unknown"]) == []


@pytest.mark.parametrize(
    "objects",
    [{}, {"r": b""}, {"r": b"Message \x00"}, {"r": b"RecordDict  0\x00"}, {"r": b"Message r 0\x00"}],
    ids=["nothing", "empty", "no head", "another type", "its own child"],
)
def test_objects_that_are_no_message_make_an_empty_answer(objects: dict[str, bytes]) -> None:
    """Whatever Flower's parsers raise; the empty answer counts as malformed."""
    out = grid(box())

    reply = out._inflated(3, Answer(question="q", root="r", objects=objects), most_bytes=1000)

    assert not reply.has_error()
    assert not reply.content
    assert (reply.metadata.src_node_id, reply.metadata.reply_to_message_id) == (3, "q")


def test_a_body_that_is_no_message_is_malformed() -> None:
    """It raises nothing."""

    class Desk:
        node, box = 3, None

    found = fleet.answer(Desk(), path=fleet.PULL, body=b"\xff\xff\xff")  # type: ignore[arg-type]
    other = fleet.answer(
        Desk(),  # type: ignore[arg-type]
        path=FLEET + "deactivate-node",
        body=DeactivateNodeRequest(node_id=4).SerializeToString(),
    )

    assert found == fleet.MALFORMED
    assert other == fleet.OTHER_NODE
