"""Flower's Fleet API and messages, as a site sees them."""

import contextlib
import hashlib
import json
from collections.abc import Callable
from typing import Any

import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, RecordDict
from flwr.app.message import make_message
from flwr.app.metadata import Metadata
from flwr.common.constant import HEARTBEAT_MAX_INTERVAL, HEARTBEAT_MIN_INTERVAL, ErrorCode
from flwr.common.serde import message_from_proto
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.proto.message_pb2 import ObjectTree
from flwr.server.utils.validator import validate_message
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree, iterate_object_tree
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents, validate_object_content
from flwr.supercore.protobuf.constants import PROTOBUF_MEDIA_TYPE
from flwr.supercore.protobuf.translation import PROTOBUF_REQUEST_TYPES
from hypothesis import given, settings
from hypothesis import strategies as st

from partsong.client.app import RAW
from partsong.client.link import channel, fleet
from partsong.client.link.fleet import Limits, Opened, open_delivery, seal_reply
from partsong.client.link.inbox import Delivery, Notice, Part
from partsong.client.link.questions import Reply
from partsong.common.errors import WireError
from partsong.server.app import MESSAGE_TYPES

NODE, RUN, NOW_S = 1 << 63, 7, 1_800_000_000.0


def flower(*, kind: str = "query.keys", ttl_s: float = 60.0, node: int = NODE, **raw: bytes) -> Message:
    """What a coordinator would send."""
    content = RecordDict({"partsong": ConfigRecord({"header": b"h", "version": 1})})
    for name, data in raw.items():
        content[name] = ArrayRecord({name: Array(dtype="uint8", shape=(len(data),), stype=RAW, data=data)})
    return make_message(Metadata(RUN, "", 1, node, "", "keys", NOW_S, ttl_s, kind), content)


def delivered(message: Any, change: Callable[[dict[str, bytes]], None] = lambda _: None) -> Delivery:
    """The parts of a message as they would arrive, after `change`."""
    tree = get_object_tree(message)
    contents = {name: part.deflate() for name, part in get_all_nested_objects(message).items()}
    change(contents)
    parts = {
        t.object_id: Part(name=raw(t.object_id), children=tuple(raw(c.object_id) for c in t.children))
        for t in iterate_object_tree(tree)
    }
    notice = Notice(
        message=raw(tree.object_id), run=RUN, node=NODE, arrived_ms=int(NOW_S * 1000), expires_ms=0,
        parts=tuple(parts.values()),
    )  # fmt: skip
    return Delivery(notice=notice, contents=tuple(contents[name] for name in parts))


def raw(name: str) -> bytes:
    return bytes.fromhex(name)


def opened(message: Any, change: Callable[[dict[str, bytes]], None] = lambda _: None, **limits: int) -> Opened:
    return open_delivery(delivered(message, change), limits=Limits(**limits))


@pytest.mark.parametrize(("kind", "message_type"), MESSAGE_TYPES.items())
def test_a_message_of_every_kind_is_read_as_it_was_written(kind: str, message_type: str) -> None:
    """The coordinator's table of types, the other way round."""
    found = opened(flower(kind=message_type, vector=b"\x00\xff", note=b"n"))

    assert found.question.kind == kind
    assert dict(found.question.fields) == {"header": b"h", "version": 1}
    assert (found.question.vector, found.question.note, found.question.run) == (b"\x00\xff", b"n", RUN)
    assert found.expires_ms == int((NOW_S + 60) * 1000)


@settings(deadline=None, max_examples=50)
@given(vector=st.binary(max_size=200), note=st.binary(max_size=20), header=st.binary(max_size=20))
def test_an_answer_is_what_flower_would_read(vector: bytes, note: bytes, header: bytes) -> None:
    """Flower's own parser and its server's checks are the second source; equal answers have equal bytes."""
    question = opened(flower())
    reply = Reply(fields={"header": header}, vector=vector, note=note)

    out = seal_reply(question, reply)

    assert seal_reply(question, reply) == out
    envelope = message_from_proto(ProtoMessage.FromString(out.envelope))
    assert [e for e in validate_message(envelope, is_reply_message=True) if "expired" not in e] == []
    contents = {part.name.hex(): part.content for part in out.parts}
    assert all(hashlib.sha256(part.content).digest() == part.name for part in out.parts)
    for content in contents.values():
        validate_object_content(content)
    root = envelope.metadata.message_id
    assert ObjectTree.FromString(out.tree).object_id == root
    read = inflate_object_from_contents(root, contents)
    assert isinstance(read, Message)
    assert read.metadata.reply_to_message_id == question.question.message
    assert (read.metadata.src_node_id, read.metadata.dst_node_id, read.metadata.run_id) == (NODE, 1, RUN)
    assert read.content["partsong"]["header"] == header
    for name, data in (("vector", vector), ("note", note)):
        assert (read.content[name][name].data if name in read.content else b"") == data


def test_a_failure_says_nothing_but_that() -> None:
    """With Flower's code for it."""
    out = seal_reply(opened(flower()), None)

    error = message_from_proto(ProtoMessage.FromString(out.envelope)).error
    assert (error.code, error.reason) == (ErrorCode.CLIENT_APP_RAISED_EXCEPTION, "the site failed")


def bomb(contents: dict[str, bytes]) -> None:
    """One chunk, laid out a million times."""
    name, content = next((n, c) for n, c in contents.items() if c.startswith(b"Array "))
    head, body = content.split(b"\0", 1)
    wide = json.dumps(json.loads(body) | {"arraychunk_ids": [0] * 1_000_000}).encode()
    contents[name] = head.rsplit(b" ", 1)[0] + b" %d\0" % len(wide) + wide


def long_text(contents: dict[str, bytes]) -> None:
    """Three megabytes of numbers, which take thirty once they are read."""
    name, content = next((n, c) for n, c in contents.items() if c.startswith(b"Array "))
    head, body = content.split(b"\0", 1)
    wide = json.dumps(json.loads(body) | {"shape": [999] * 700_000}).encode()
    contents[name] = head.rsplit(b" ", 1)[0] + b" %d\0" % len(wide) + wide


def other_children(contents: dict[str, bytes]) -> None:
    name, content = next((n, c) for n, c in contents.items() if c.startswith(b"RecordDict "))
    contents[name] = content.replace(content.split(b" ")[1][:64], b"a" * 64)


def unknown_type(contents: dict[str, bytes]) -> None:
    name, content = next((n, c) for n, c in contents.items() if c.startswith(b"ConfigRecord "))
    contents[name] = b"Pickle" + content[len("ConfigRecord") :]


@pytest.mark.parametrize("change", [bomb, long_text, other_children, unknown_type])
def test_a_hostile_message_is_dropped(change: Callable[[dict[str, bytes]], None]) -> None:
    """Before anything large is made of it; unchanged, the same message is read."""
    message = flower(vector=bytes(1000))
    assert opened(message).question.vector == bytes(1000)

    with pytest.raises(WireError):
        opened(message, change, message_bytes=100_000)


@pytest.mark.parametrize("wrong", ["node", "error", "no message", "ttl", "no record", "array"])
def test_what_is_no_question_to_this_site_is_dropped(wrong: str) -> None:
    """Whatever Flower's parser makes of it."""
    message: Any = {
        "node": flower(node=5),
        "error": make_message(flower().metadata, error=Error(1, "x")),
        "no message": RecordDict({"partsong": ConfigRecord({"header": b"h"})}),
        "ttl": flower(ttl_s=1e12),
        "no record": make_message(flower().metadata, RecordDict()),
        "array": make_message(
            flower().metadata,
            RecordDict({"partsong": ConfigRecord({}), "vector": ConfigRecord({"vector": b"not an array"})}),
        ),
    }[wrong]
    if wrong == "array":
        assert opened(message).question.vector == b""
        return

    with pytest.raises(WireError):
        opened(message)


@settings(deadline=None, max_examples=200)
@given(place=st.integers(0, 10_000), byte=st.integers(0, 255), which=st.integers(0, 10))
def test_no_byte_of_a_message_breaks_anything_but_the_message(place: int, byte: int, which: int) -> None:
    """Any byte of any part: it is read, or dropped with a WireError. (Its name would tell earlier.)

    A zero in the head of a part ends the head there, and the rest of the head counts as content: 20 bytes at most.
    """

    def change(contents: dict[str, bytes]) -> None:
        name = list(contents)[which % len(contents)]
        content = bytearray(contents[name])
        content[place % len(content)] = byte
        contents[name] = bytes(content)

    with contextlib.suppress(WireError):
        assert len(opened(flower(vector=b"v" * 50, note=b"n"), change).question.vector) <= 50 + 20


@pytest.mark.parametrize(
    ("tree", "says"),
    [
        (ObjectTree(object_id="../" * 21 + "x"), "not 64 hex digits"),
        (ObjectTree(object_id="A" * 64), "not 64 hex digits"),
        (ObjectTree(object_id="a" * 64, children=[ObjectTree(object_id="b" * 64)] * 20), "over 20 parts"),
        (
            ObjectTree(
                object_id="a" * 64,
                children=[
                    ObjectTree(object_id="b" * 64),
                    ObjectTree(object_id="c" * 64, children=[ObjectTree(object_id="b" * 64, children=[ObjectTree(object_id="d" * 64)])]),
                ],
            ),
            "two sets of children",
        ),
    ],
)  # fmt: skip
def test_an_announcement_over_a_limit_is_refused(tree: ObjectTree, says: str) -> None:
    """Names that are no hashes, too many parts, contradictions."""
    with pytest.raises(WireError, match=says):
        fleet._parts(tree, limits=Limits(parts=20))


@pytest.mark.parametrize(("depth", "fits"), [(7, True), (8, True), (9, False)])
def test_depth_is_bounded(depth: int, *, fits: bool) -> None:
    """One below, at and above the limit; a message of ours needs five."""
    tree = ObjectTree(object_id="0" * 64)
    for level in range(1, depth):
        tree = ObjectTree(object_id=f"{level:064x}", children=[tree])

    if fits:
        assert len(fleet._parts(tree, limits=Limits())) == depth
    else:
        with pytest.raises(WireError, match="levels"):
            fleet._parts(tree, limits=Limits())
    assert len(fleet._parts(get_object_tree(flower(vector=b"v")), limits=Limits(depth=5))) == 6


def test_flower_still_is_what_this_module_takes_it_for() -> None:
    """The installed version's paths, requests, media type and bounds; none of them fetches code."""
    for request, path in fleet._PATHS.items():
        assert PROTOBUF_REQUEST_TYPES["POST", f"/v1/fleet/{path}"] is request
    assert channel._PROTOBUF == PROTOBUF_MEDIA_TYPE
    assert HEARTBEAT_MIN_INTERVAL <= fleet.HEARTBEAT_S <= HEARTBEAT_MAX_INTERVAL
    assert not {"get-fab", "get-run", "register-node"} & set(fleet._PATHS.values())
    assert fleet._APP_RAISED == ErrorCode.CLIENT_APP_RAISED_EXCEPTION
