"""Flower's Fleet API over postboxes, and Flower's Grid on their other side: a SuperLink that only moves messages.

This module and `inflating` are all of the server that knows how Flower's messages look on the wire. Runs, apps, tasks
and the APIs to control them do not exist here, so there is nothing of them to protect.

Covers: a site speaks as its own node and about its own messages alone, whatever its requests claim.
Does not cover: limits and admission (`partsong.server.link.gate`), and whether an answer is genuine
(`partsong.common.identity.envelope`).
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Protocol

from flwr.app import Error, Message, Metadata, RecordDict
from flwr.app.message.arraychunk import ArrayChunk
from flwr.app.message.message import make_message, remove_content_from_message
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode
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
from flwr.proto.message_pb2 import Message as MessageProto
from flwr.serverapp import Grid
from flwr.supercore.inflatable.inflatable_object import (
    InflatableObject,
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.run import Run
from google.protobuf.message import DecodeError
from google.protobuf.message import Message as Proto

from partsong.server.link.gate import (
    FLEET,
    MALFORMED,
    MAX_OBJECT_BYTES,
    MAX_SMALL_BYTES,
    MAX_TREE_BYTES,
    NO_ROOM,
    NOT_ASKED,
    OTHER_NODE,
    TOO_LARGE,
    Refusal,
)
from partsong.server.link.inflating import inflate
from partsong.server.link.postbox import Answer, NotAsked, Postbox, Question, TooMuch
from partsong.server.link.room import NoRoom


def node_of(key: bytes) -> int:
    """Give the number that Flower knows a site by: 62 bits of its transport key's hash, so a restart keeps it."""
    return (int.from_bytes(hashlib.sha256(key).digest()[:8], "big") >> 2) | 2


class Desk(Protocol):
    """What the fleet needs to know about one site."""

    node: int
    box: Postbox

    def seen(self, *, patience_s: float | None) -> None:
        """Note a sign of life: how long it counts, or None for a farewell."""
        ...


class _NotThatNode(Exception):
    """The request speaks for another node than the connection's."""


def _activated(desk: Desk, request: ActivateNodeRequest) -> ActivateNodeResponse:
    desk.seen(patience_s=_patience_s(request.heartbeat_interval))
    return ActivateNodeResponse(node_id=desk.node)


def _left(desk: Desk, request: DeactivateNodeRequest) -> DeactivateNodeResponse:
    _check_node(desk, request.node_id)
    desk.seen(patience_s=None)
    return DeactivateNodeResponse()


def _alive(desk: Desk, request: SendNodeHeartbeatRequest) -> SendNodeHeartbeatResponse:
    _check_node(desk, request.node.node_id)
    desk.seen(patience_s=_patience_s(request.heartbeat_interval))
    return SendNodeHeartbeatResponse(success=True)


def _mail(desk: Desk, request: PullMessagesRequest) -> PullMessagesResponse:
    _check_node(desk, request.node.node_id)
    question = desk.box.next()
    if question is None:
        return PullMessagesResponse()
    return PullMessagesResponse(
        messages_list=[MessageProto.FromString(question.head)],
        message_object_trees=[ObjectTree.FromString(question.tree)],
    )


def _object(desk: Desk, request: PullObjectRequest) -> PullObjectResponse:
    _check_node(desk, request.node.node_id)
    content = desk.box.object(request.object_id)
    if content is None:
        return PullObjectResponse(object_found=False, object_available=False)
    return PullObjectResponse(object_found=True, object_available=True, object_content=content)


def _confirmed(desk: Desk, request: ConfirmMessageReceivedRequest) -> ConfirmMessageReceivedResponse:
    _check_node(desk, request.node.node_id)
    desk.box.confirm(request.message_object_id)
    return ConfirmMessageReceivedResponse()


def _begun(desk: Desk, request: PushMessagesRequest) -> PushMessagesResponse:
    _check_node(desk, request.node.node_id)
    if len(request.messages_list) != 1 or len(request.message_object_trees) != 1:
        raise DecodeError
    said, tree = request.messages_list[0].metadata, request.message_object_trees[0]
    _check_node(desk, said.src_node_id)
    missing = desk.box.begin(
        said.reply_to_message_id,
        run=said.run_id,
        root=tree.object_id,
        objects=[node.object_id for node in iterate_object_tree(tree)],
    )
    return PushMessagesResponse(
        results={said.message_id: 0}, objects_to_push=missing, session_id=said.reply_to_message_id
    )


def _taken(desk: Desk, request: PushObjectRequest) -> PushObjectResponse:
    _check_node(desk, request.node.node_id)
    stored = desk.box.add(request.session_id, object_id=request.object_id, content=request.object_content)
    return PushObjectResponse(stored=stored)


def _check_node(desk: Desk, claimed: int) -> None:
    if claimed != desk.node:
        raise _NotThatNode


def _patience_s(interval_s: float) -> float:
    """Two heartbeats may be missed; what a site says about its own interval counts within bounds."""
    return 3 * min(max(interval_s, 5.0), 120.0)


PULL, NO_MAIL = FLEET + "pull-messages", PullMessagesResponse().SerializeToString()
PUSHES = (FLEET + "push-messages", FLEET + "push-object")
_SERVICES: dict[str, tuple[type[Proto], Callable[..., Proto], int]] = {
    FLEET + "activate-node": (ActivateNodeRequest, _activated, MAX_SMALL_BYTES),
    FLEET + "deactivate-node": (DeactivateNodeRequest, _left, MAX_SMALL_BYTES),
    FLEET + "send-node-heartbeat": (SendNodeHeartbeatRequest, _alive, MAX_SMALL_BYTES),
    PULL: (PullMessagesRequest, _mail, MAX_SMALL_BYTES),
    FLEET + "pull-object": (PullObjectRequest, _object, MAX_SMALL_BYTES),
    FLEET + "confirm-message-received": (ConfirmMessageReceivedRequest, _confirmed, MAX_SMALL_BYTES),
    FLEET + "push-messages": (PushMessagesRequest, _begun, MAX_TREE_BYTES),
    FLEET + "push-object": (PushObjectRequest, _taken, MAX_OBJECT_BYTES),
}
BODY_BYTES = {path: most for path, (_, _, most) in _SERVICES.items()}
"""Every path there is. Enrolment, bundles of code and descriptions of runs are not among them."""


def answer(desk: Desk, *, path: str, body: bytes) -> bytes | Refusal:
    """Answer one request of the site that `desk` belongs to.

    Args:
        desk: of the key that the connection has proven.
        path: one of `BODY_BYTES`.
        body: the request, unread so far.
    """
    kind, act, _ = _SERVICES[path]
    try:
        response: bytes = act(desk, kind.FromString(body)).SerializeToString()
    except DecodeError:
        return MALFORMED
    except _NotThatNode:
        return OTHER_NODE
    except NotAsked:
        return NOT_ASKED
    except TooMuch:
        return TOO_LARGE
    except NoRoom:
        return NO_ROOM
    return response


class _Parts(Mapping[str, bytes]):
    """Parts of a question as bytes. A chunk of an array is a view of it until it is asked for."""

    def __init__(self, parts: Mapping[str, InflatableObject]) -> None:
        self._parts = {i: part if isinstance(part, ArrayChunk) else part.deflate() for i, part in parts.items()}

    def __getitem__(self, object_id: str) -> bytes:
        part = self._parts[object_id]
        return part if isinstance(part, bytes) else part.deflate()

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)


class FleetGrid(Grid):
    """Flower's Grid over the postboxes, for one run."""

    def __init__(
        self,
        run: int,
        *,
        boxes: Callable[[], Mapping[int, Postbox]],
        online: Callable[[], Iterable[int]],
        gone: Callable[[int], bool],
        posted: Callable[[int], None],
        clock: Callable[[], float],
    ) -> None:
        """Take the run's number and the way to the sites.

        Args:
            run: Flower's number of the run.
            boxes: box of each node.
            online: nodes that can be reached now.
            gone: whether a node has been away for so long that nobody waits for it.
            posted: told the node that has mail.
            clock: the boxes' clock.
        """
        self._run = Run.create_empty(run_id=run)
        self._boxes, self._online, self._gone, self._posted, self._clock = boxes, online, gone, posted, clock
        self._asked: dict[str, int] = {}

    def set_run(self, run: Run) -> None:
        """Take over a run's description."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run that this grid belongs to."""
        return self._run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Build a message of this run. Flower's constructor would take the run from a global of the process."""
        return make_message(self._metadata(dst_node_id, kind=message_type, group=group_id, ttl_s=ttl or 0.0), content)

    def get_node_ids(self) -> list[int]:
        """All nodes that can be reached now."""
        return list(self._online())

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Put messages into the boxes of their nodes; the id is empty for a node that is not enrolled any more."""
        with no_object_id_recompute():  # over all of them: what they share is hashed once
            return [self._push(message) for message in messages]

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Return one answer that is whole, or an error for a node that is gone; each once.

        One at a time, so that no two answers are in memory both as they came and as they are read.
        """
        boxes = self._boxes()
        for message_id in message_ids:
            if (node := self._asked.get(message_id)) is None:
                continue
            box = boxes.get(node)
            if box is None or self._gone(node):
                reply = self._lost(node, message_id)
            elif (found := box.take(message_id)) is not None:
                reply = self._inflated(node, found, most_bytes=box.max_message_bytes)
            else:
                continue
            del self._asked[message_id]
            return [reply]
        return []

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Not offered: it would hold all answers in memory at once."""
        raise NotImplementedError("push_messages and pull_messages")

    def _push(self, message: Message) -> str:
        node = message.metadata.dst_node_id
        box = self._boxes().get(node)
        if box is None:
            return ""
        message_id = message.object_id
        message.metadata.__dict__["_message_id"] = message_id
        objects = _Parts(get_all_nested_objects(message))
        tree = get_object_tree(message).SerializeToString()
        head = message_to_proto(remove_content_from_message(message)).SerializeToString()
        box.put(
            Question(
                id=message_id,
                run=message.metadata.run_id,
                head=head,
                tree=tree,
                objects=objects,
                expires_s=self._clock() + message.metadata.ttl,
            )
        )
        self._asked[message_id] = node
        self._posted(node)
        return message_id

    def _inflated(self, node: int, found: Answer, *, most_bytes: int) -> Message:
        """Build the message of an answer; an empty one of what is none, or is larger than it came."""
        metadata = self._metadata(SUPERLINK_NODE_ID, source=node, reply_to=found.question)
        reply = inflate(found, most_bytes=most_bytes)
        if reply is None:
            return make_message(metadata, RecordDict())
        if reply.has_error():
            return make_message(metadata, error=Error(reply.error.code))
        return make_message(metadata, reply.content)

    def _lost(self, node: int, message_id: str) -> Message:
        metadata = self._metadata(SUPERLINK_NODE_ID, source=node, reply_to=message_id)
        return make_message(metadata, error=Error(ErrorCode.NODE_UNAVAILABLE))

    def _metadata(
        self,
        node: int,
        *,
        kind: str = "query",
        group: str = "",
        ttl_s: float = 0.0,
        source: int = SUPERLINK_NODE_ID,
        reply_to: str = "",
    ) -> Metadata:
        return Metadata(
            run_id=self._run.run_id,
            message_id="",
            src_node_id=source,
            dst_node_id=node,
            reply_to_message_id=reply_to,
            group_id=group,
            created_at=time.time(),
            ttl=ttl_s,
            message_type=kind,
        )
