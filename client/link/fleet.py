"""Flower's Fleet API as a site needs it: its requests, and its messages as questions and answers.

The only module of the site, besides `partsong.client.app`, that knows Flower. Requests are made here rather than by
Flower's own client, which follows redirects, reads answers of any length and ends the process when versions differ.
Flower's app bundles are code from the coordinator: no request of this module fetches one.

Covers: before anything of a message is parsed, each of its parts is what its name (a SHA-256) says; parts, depth and
size are bounded, also the size after repeated chunks are laid out; the parts refer to each other as announced.
Does not cover: who wrote it; that is `partsong.common.identity.envelope`'s business, once the question is out of here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MessageType, RecordDict
from flwr.app.message import make_message, remove_content_from_message
from flwr.app.message.arraychunk import ArrayChunk
from flwr.app.metadata import Metadata
from flwr.common.serde import message_to_proto
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    ActivateNodeResponse,
    DeactivateNodeRequest,
    DeactivateNodeResponse,
    PullMessagesRequest,
    PullMessagesResponse,
    PushMessagesRequest,
    PushMessagesResponse,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest, SendNodeHeartbeatResponse
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedRequest,
    ConfirmMessageReceivedResponse,
    ObjectTree,
    PullObjectRequest,
    PullObjectResponse,
    PushObjectRequest,
    PushObjectResponse,
)
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.proto.node_pb2 import Node
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_head_values_from_object_content,
    get_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

from partsong.client.app import RAW
from partsong.client.link.channel import Channel
from partsong.client.link.inbox import Delivery, Notice, Part
from partsong.client.link.outbox import MEMORY_S, Outgoing, Sealed
from partsong.client.link.questions import Question, Reply
from partsong.common.errors import WireError


class _Proto(Protocol):
    """What is used of a protobuf message."""

    def SerializeToString(self, *, deterministic: bool = ...) -> bytes: ...
    def ParseFromString(self, serialized: bytes) -> int: ...


ResponseT = TypeVar("ResponseT", bound=_Proto)
HEARTBEAT_S = 30.0
"""Told to the coordinator, which holds a site for lost after twice this time."""
_PATHS = {
    ActivateNodeRequest: "activate-node",
    DeactivateNodeRequest: "deactivate-node",
    SendNodeHeartbeatRequest: "send-node-heartbeat",
    PullMessagesRequest: "pull-messages",
    PullObjectRequest: "pull-object",
    ConfirmMessageReceivedRequest: "confirm-message-received",
    PushMessagesRequest: "push-messages",
    PushObjectRequest: "push-object",
}
"""All that a site ever asks for."""
_ID = re.compile(r"[0-9a-f]{64}")
_MOST_BYTES = 1 << 20
"""Of an answer that carries no part of a message; the longest lists the parts of a message, 66 bytes each."""
_MOST_DESCRIBING = 2 << 20
"""Bytes of a message beside the chunks of its arrays: a header has 1 MiB at most, and text grows as it is read."""
_PART_OVERHEAD = 64
_APP_RAISED = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What a site takes at most."""

    message_bytes: int = 1 << 29
    parts: int = 4096
    depth: int = 8
    """Message, records, record, array, chunk are 5."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Opened:
    """A question, and what Flower has to see in its answer."""

    question: Question
    created_ms: int
    """When the coordinator wrote it, by its clock."""
    expires_ms: int
    """When nobody waits for an answer any longer, by the site's clock."""
    metadata: Metadata


class Unfit(WireError):
    """A message that this site does not take; nothing of it was fetched."""

    def __init__(self, error: WireError, *, notice: Notice) -> None:
        super().__init__(str(error), rule=error.rule)
        self.notice = notice


class FleetApi:
    """Requests of one thread."""

    def __init__(self, channel: Channel, *, limits: Limits) -> None:
        """Use `channel`. All requests raise what `Channel.post` raises."""
        self._channel, self._limits = channel, limits

    def activate(self) -> int:
        """Report this site as connected and give what the coordinator's transport calls it."""
        request = ActivateNodeRequest(public_key=self._channel.public_key, heartbeat_interval=HEARTBEAT_S)
        return self._ask(request, ActivateNodeResponse()).node_id

    def deactivate(self, node: int) -> None:
        """Report this site as gone."""
        self._ask(DeactivateNodeRequest(node_id=node), DeactivateNodeResponse())

    def beat(self, node: int) -> bool:
        """Report this site as still connected; False: the coordinator does not know it."""
        request = SendNodeHeartbeatRequest(node=Node(node_id=node), heartbeat_interval=HEARTBEAT_S)
        return self._ask(request, SendNodeHeartbeatResponse()).success

    def pull(self, node: int, *, clock_ms: Callable[[], int]) -> Notice | None:
        """Ask for a message. The coordinator may let this wait for seconds, so the clock is read when there is one.

        Raises:
            Unfit: one that is over a limit or malformed; nothing of it was fetched.
            WireError: not even its name can be read.
        """
        found = self._ask(PullMessagesRequest(node=Node(node_id=node)), PullMessagesResponse())
        if not found.messages_list:
            return None
        if len(found.messages_list) != 1 or len(found.message_object_trees) != 1:
            raise WireError("coordinator's answer: several messages where one was asked for; they were dropped")
        metadata, tree, now_ms = found.messages_list[0].metadata, found.message_object_trees[0], clock_ms()
        bare = Notice(
            message=_name(tree.object_id),
            run=metadata.run_id,
            node=node,
            arrived_ms=now_ms,
            expires_ms=now_ms,
            parts=(),
        )
        try:
            parts = tuple(_parts(tree, limits=self._limits))
            return replace(bare, expires_ms=now_ms + _lifetime_ms(metadata.ttl), parts=parts)
        except WireError as err:
            raise Unfit(err, notice=bare) from err

    def pull_part(self, notice: Notice, part: Part, *, most_bytes: int) -> bytes | None:
        """Fetch a part of a message; None: it is not at the coordinator yet.

        Raises:
            WireError: it is longer than `most_bytes`, or will never be there.
        """
        request = PullObjectRequest(node=Node(node_id=notice.node), run_id=notice.run, object_id=part.name.hex())
        found = self._ask(request, PullObjectResponse(), most_bytes=most_bytes + _PART_OVERHEAD)
        if not found.object_found:
            raise WireError("message: the coordinator has lost a part; it was dropped")
        return found.object_content if found.object_available else None

    def confirm(self, notice: Notice) -> None:
        """Tell that a message is safe here; the coordinator forgets its parts."""
        request = ConfirmMessageReceivedRequest(
            node=Node(node_id=notice.node), run_id=notice.run, message_object_id=notice.message.hex()
        )
        self._ask(request, ConfirmMessageReceivedResponse())

    def push(self, answer: Outgoing) -> tuple[str, frozenset[bytes]]:
        """Announce an answer. Gives a session, and the names of the parts that the coordinator lacks."""
        request = PushMessagesRequest(
            node=Node(node_id=answer.node),
            messages_list=[ProtoMessage.FromString(answer.envelope)],
            message_object_trees=[ObjectTree.FromString(answer.tree)],
        )
        found = self._ask(request, PushMessagesResponse())
        return found.session_id, frozenset(_name(name) for name in found.objects_to_push)

    def push_part(self, answer: Outgoing, part: Sealed, *, session: str) -> bool:
        """Send a part; False: the session is over, and `push` gives another."""
        request = PushObjectRequest(
            node=Node(node_id=answer.node),
            run_id=answer.run,
            session_id=session,
            object_id=part.name.hex(),
            object_content=part.content,
        )
        return self._ask(request, PushObjectResponse()).stored

    def _ask(self, request: _Proto, response: ResponseT, *, most_bytes: int = _MOST_BYTES) -> ResponseT:
        path = f"/v1/fleet/{_PATHS[type(request)]}"
        body = self._channel.post(path, request.SerializeToString(deterministic=True), most_bytes=most_bytes)
        try:
            response.ParseFromString(body)
        except Exception as err:  # protobuf's own class for this has no types
            raise WireError("coordinator's answer: not what the transport says; it was dropped") from err
        return response


def open_delivery(delivery: Delivery, *, limits: Limits) -> Opened:
    """Parse a message.

    Args:
        delivery: whose parts are what their names say.
        limits: on what the parts become.
    Raises:
        WireError: not a message that a site takes; nothing was done.
    """
    contents = {
        part.name.hex(): content for part, content in zip(delivery.notice.parts, delivery.contents, strict=True)
    }
    root = delivery.notice.message.hex()
    try:
        _check_parts(delivery, contents, limits=limits)
        return _opened(inflate_object_from_contents(root, contents), delivery.notice)
    except WireError:
        raise
    except Exception as err:  # whatever a stranger's bytes do to Flower's parser
        raise WireError(f"message: not one of Flower's ({type(err).__name__}); it was dropped") from err


def seal_reply(opened: Opened, reply: Reply | None) -> Outgoing:
    """Write an answer as the bytes that go out.

    Guarantees: equal answers to one question have equal bytes: the message's time is that of the question.
    Args:
        opened: the question.
        reply: None tells that the site failed, and nothing else.
    """
    metadata = opened.metadata
    envelope = Metadata(
        run_id=metadata.run_id,
        message_id="",
        src_node_id=metadata.dst_node_id,
        dst_node_id=metadata.src_node_id,
        reply_to_message_id=opened.question.message,
        group_id=metadata.group_id,
        created_at=metadata.created_at,
        ttl=metadata.ttl,
        message_type=metadata.message_type,
        src_task_id=metadata.dst_task_id,
        dst_task_id=metadata.src_task_id,
    )
    failure = None if reply else Error(_APP_RAISED, "the site failed")
    message = make_message(envelope, _content(reply) if reply else None, failure)
    with no_object_id_recompute():
        envelope.__dict__["_message_id"] = message.object_id
        return Outgoing(
            question=bytes.fromhex(opened.question.message),
            run=metadata.run_id,
            node=metadata.dst_node_id,
            expires_ms=opened.expires_ms,
            envelope=message_to_proto(remove_content_from_message(message)).SerializeToString(deterministic=True),
            tree=get_object_tree(message).SerializeToString(deterministic=True),
            parts=tuple(
                Sealed(name=bytes.fromhex(name), content=part.deflate())
                for name, part in get_all_nested_objects(message).items()
            ),
        )


def _content(reply: Reply) -> RecordDict:
    content = RecordDict({"partsong": ConfigRecord({**reply.fields})})
    for name, data in (("vector", reply.vector), ("note", reply.note)):
        if data:
            content[name] = ArrayRecord({name: Array(dtype="uint8", shape=(len(data),), stype=RAW, data=data)})
    return content


def _opened(message: object, notice: Notice) -> Opened:
    if not isinstance(message, Message) or message.metadata.dst_node_id != notice.node:
        raise WireError("message: not one for this site; it was dropped")
    # Not by `array_records` and `config_records`, which refer to themselves: an array would stay until the collector
    # comes by.
    records = {name: message.content.get(name) for name in ("vector", "note", "partsong")}
    raw = {
        name: arrays[name].data if isinstance(arrays, ArrayRecord) and name in arrays else b""
        for name, arrays in records.items()
    }
    metadata, fields = message.metadata, records["partsong"]
    if not isinstance(fields, ConfigRecord):
        raise WireError("message: without its fields; it was dropped")
    question = Question(
        message=notice.message.hex(),
        run=metadata.run_id,
        kind="open" if metadata.message_type == MessageType.TRAIN else metadata.message_type.removeprefix("query."),
        fields=dict(fields),
        vector=raw["vector"],
        note=raw["note"],
    )
    return Opened(
        question=question,
        created_ms=int(metadata.created_at * 1000),
        expires_ms=notice.arrived_ms + _lifetime_ms(metadata.ttl),
        metadata=metadata,
    )


def _check_parts(delivery: Delivery, contents: Mapping[str, bytes], *, limits: Limits) -> None:
    """Compare the children that parts name with the announced ones, and bound what arrays become."""
    left, describing = limits.message_bytes, _MOST_DESCRIBING
    for part in delivery.notice.parts:
        content = contents[part.name.hex()]
        kind, children, _ = get_object_head_values_from_object_content(content)
        if [bytes.fromhex(child) for child in children] != list(part.children):
            raise WireError("message: its parts are not those that were announced; it was dropped")
        describing -= 0 if kind == ArrayChunk.__qualname__ else len(content)
        if describing < 0:
            raise WireError(f"message: over {_MOST_DESCRIBING} bytes beside its arrays; it was dropped")
        if kind == Array.__qualname__:
            chunks = json.loads(content[content.index(b"\x00") + 1 :])["arraychunk_ids"]
            sizes = [len(contents[child]) for child in children]
            left -= sum(sizes[index] for index in chunks)
        if left < 0:
            raise WireError(f"message: longer than {limits.message_bytes} bytes; it was dropped", rule="message.size")


def _parts(tree: ObjectTree, *, limits: Limits) -> list[Part]:
    """Give the parts of a tree once each, children before parents.

    Raises:
        WireError: too many, too deep, or a name that is none.
    """
    parts: dict[bytes, Part] = {}
    nodes = 0

    def visit(node: ObjectTree, depth: int) -> bytes:
        nonlocal nodes
        nodes += 1
        if depth > limits.depth or nodes > limits.parts:
            raise WireError(
                f"message: over {limits.parts} parts or {limits.depth} levels; it was dropped", rule="message.parts"
            )
        children = tuple(visit(child, depth + 1) for child in node.children)
        name = _name(node.object_id)
        if parts.setdefault(name, Part(name=name, children=children)).children != children:
            raise WireError("message: one part with two sets of children; it was dropped")
        return name

    visit(tree, 1)
    return list(parts.values())


def _lifetime_ms(ttl_s: float) -> int:
    """Read how long somebody waits for an answer."""
    if not 0 < ttl_s <= MEMORY_S:
        raise WireError(f"message: a time to live that is not between 0 and {MEMORY_S} s; it was dropped")
    return int(ttl_s * 1000)


def _name(text: str) -> bytes:
    """Read the name of a part."""
    if not _ID.fullmatch(text):
        raise WireError("message: a part's name is not 64 hex digits; it was dropped")
    return bytes.fromhex(text)
