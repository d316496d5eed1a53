"""A site that speaks with Flower's own client for its Fleet API, and that lies where a test wants it to."""

import ssl
from collections.abc import Callable
from typing import Any

from flwr.app import Context, Message, RecordDict
from flwr.app.message.message import remove_content_from_message
from flwr.common.serde import message_to_proto
from flwr.proto.fleet_pb2 import ActivateNodeRequest, PullMessagesRequest, PushMessagesRequest
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, PullObjectRequest, PushObjectRequest
from flwr.proto.node_pb2 import Node
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.task_identity import TaskIdentity
from flwr.supernode.fleet_http_client import FleetHttpClient

App = Callable[[Message, Context], Message]


class FleetSite:
    """One connection."""

    def __init__(self, address: str, trust: ssl.SSLContext, key: bytes = b"") -> None:
        self.client = FleetHttpClient(f"https://{address}", verify=trust, interceptors=[])
        self.key = key
        self.node = Node(node_id=0)

    def activate(self) -> "FleetSite":
        self.node = Node(
            node_id=self.client.ActivateNode(ActivateNodeRequest(public_key=self.key, heartbeat_interval=30)).node_id
        )
        return self

    def heartbeat(self) -> bool:
        return bool(
            self.client.SendNodeHeartbeat(SendNodeHeartbeatRequest(node=self.node, heartbeat_interval=30)).success
        )

    def pull(self) -> Message | None:
        """Fetch a message whole, without confirming it."""
        found = self.client.PullMessages(PullMessagesRequest(node=self.node))
        if not found.messages_list:
            return None
        tree, run = found.message_object_trees[0], found.messages_list[0].metadata.run_id
        contents = {t.object_id: self.object(run, t.object_id) for t in iterate_object_tree(tree)}
        message: Any = inflate_object_from_contents(tree.object_id, contents)
        message.metadata.__dict__["_message_id"] = tree.object_id
        return message

    def object(self, run: int, object_id: str) -> bytes:
        found = self.client.PullObject(PullObjectRequest(node=self.node, run_id=run, object_id=object_id))
        if not found.object_found:
            raise KeyError(object_id)
        return bytes(found.object_content)

    def confirm(self, message: Message) -> None:
        self.client.ConfirmMessageReceived(
            ConfirmMessageReceivedRequest(
                node=self.node, run_id=message.metadata.run_id, message_object_id=message.metadata.message_id
            )
        )

    def push(self, reply: Message, *, objects: int | None = None) -> list[bool]:
        """Announce a reply and send its objects, or the first few of them."""
        with no_object_id_recompute():
            reply.metadata.__dict__["_message_id"] = reply.object_id
            begun = self.client.PushMessages(
                PushMessagesRequest(
                    node=self.node,
                    messages_list=[message_to_proto(remove_content_from_message(reply))],
                    message_object_trees=[get_object_tree(reply)],
                )
            )
            missing = set(begun.objects_to_push)
            parts = [(i, part) for i, part in get_all_nested_objects(reply).items() if i in missing][:objects]
            return [
                self.client.PushObject(
                    PushObjectRequest(
                        node=self.node, run_id=reply.metadata.run_id, session_id=begun.session_id, object_id=object_id,
                        object_content=part.deflate(),
                    )
                ).stored
                for object_id, part in parts
            ]  # fmt: skip

    def serve(self, app: App, *, messages: int = 1) -> None:
        """Answer so many messages with an app."""
        while messages:
            message = self.pull()
            if message is None:
                continue
            self.confirm(message)
            self.push(app(message, self.context(message)))
            messages -= 1

    def context(self, message: Message) -> Context:
        run = message.metadata.run_id
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, run, self.node.node_id
        return Context(run_id=run, node_id=self.node.node_id, node_config={}, state=RecordDict(), run_config={})
