"""Flower's Grid inside one process: the same ServerApp and ClientApp, no SuperLink, no Ray.

Messages are deep-copied on the way out and back, so that sites share nothing they would not share over a network.
"""

from __future__ import annotations

import copy
import secrets
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

from flwr.app import Context, Error, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from partsong.common.errors import PartsongError, TryAgain
from partsong.simulations.stacked.company import Company

App = Callable[[Message, Context], Message]
_Asked = tuple[Message, Future[Message]]
"""A message for a site, and where its reply will be."""

_APP_RAISED = 2
_FIRST_NODE = 2
_TRAINS = "train"
"""Flower's type of the message that sites train upon."""


class LocalGrid(Grid):
    """Runs every message's ClientApp on a thread of this process.

    An error that the product raises on purpose becomes a failed reply, as over a network, and is told to `on_error`.
    Any other exception is a bug and comes out of `pull_messages`, and so does `TryAgain`.
    """

    def __init__(
        self,
        app: App,
        sites: tuple[str, ...],
        *,
        workers: int = 1,
        on_error: Callable[[str, PartsongError], None] = lambda _s, _e: None,
        company: Company | None = None,
    ) -> None:
        """Connect `sites`, node by node in their order.

        Args:
            app: what a Flower ClientApp is: a callable from message and context to message.
            sites: their names; each context carries its own as `node_config["site"]`.
            workers: sites that run at the same time.
            on_error: told a site's error, in the site's thread.
            company: lets sites train together, those that are asked together. None: each alone.
        """
        run_id = secrets.randbits(63)
        self._app, self._on_error, self._company = app, on_error, company
        self._run = Run.create_empty(run_id=run_id)
        self._contexts = {
            _FIRST_NODE + i: Context(
                run_id=run_id, node_id=_FIRST_NODE + i, node_config={"site": site}, state=RecordDict(), run_config={}
            )
            for i, site in enumerate(sites)
        }
        self._locks = {node: threading.Lock() for node in self._contexts}
        self._replies: dict[str, Future[Message]] = {}
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="site")
        # Flower refuses to build a message outside a task.
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, run_id, 1

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
        """Build a message of this run."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> list[int]:
        """All nodes; they are always connected."""
        return list(self._contexts)

    def site_at(self, node: int) -> str:
        """The site that a node stands for."""
        return str(self._contexts[node].node_config["site"])

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Start the sites on copies of `messages`."""
        ids, together = list[str](), list[_Asked]()
        for message in messages:
            message_id = secrets.token_hex(16)
            message.metadata.__dict__["_message_id"] = message_id
            copied = copy.deepcopy(message)
            if self._company is not None and copied.metadata.message_type == _TRAINS:
                together.append((copied, Future()))
                self._replies[message_id] = together[-1][1]
            else:
                self._replies[message_id] = self._pool.submit(self._handle, copied)
            ids.append(message_id)
        if self._company is not None:
            most = self._company.most
            for first in range(0, len(together), most):
                self._pool.submit(self._handle_all, together[first : first + most], self._company)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Return the replies that are there, each once."""
        done = [i for i in message_ids if i in self._replies and self._replies[i].done()]
        return [copy.deepcopy(self._replies.pop(i).result()) for i in done]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Push, then wait for all replies or the timeout."""
        ids = set(self.push_messages(messages))
        deadline = None if timeout is None else time.monotonic() + timeout
        replies: list[Message] = []
        while ids and (deadline is None or time.monotonic() < deadline):
            for reply in self.pull_messages(list(ids)):
                ids.discard(reply.metadata.reply_to_message_id)
                replies.append(reply)
            time.sleep(0.002)
        return replies

    def close(self) -> None:
        """Stop the threads; messages that no site has begun are dropped."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _handle_all(self, asked: list[_Asked], company: Company) -> None:
        """Let the sites of one company handle their messages."""
        ends = company.run([partial(self._handle, message) for message, _ in asked])
        for end, (_, reply) in zip(ends, asked, strict=True):
            if end.value is not None:
                reply.set_result(end.value)
            else:
                reply.set_exception(end.error)

    def _handle(self, message: Message) -> Message:
        node = message.metadata.dst_node_id
        context = self._contexts[node]
        with self._locks[node]:
            try:
                return self._app(message, context)
            except TryAgain:
                raise  # a shortage of this machine, which all sites share here: the run stops and can be resumed
            except PartsongError as err:
                self._on_error(str(context.node_config["site"]), err)
                return Message(Error(_APP_RAISED, type(err).__name__), reply_to=message)
