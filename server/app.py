"""The coordinator as a Flower ServerApp. It moves messages and decides nothing.

Each parcel is a Flower message: the header as bytes in a ConfigRecord, vector and note as opaque Arrays (Flower cuts
arrays, not configs, into chunks that survive slow links).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp

from partsong.server.exchange import Exchange, Parcel
from partsong.server.rounds import Loss

MESSAGE_TYPES = {
    "propose": "query.propose",
    "keys": "query.keys",
    "open": "train",
    "roster": "query.roster",
    "confirm": "query.confirm",
    "unmask": "query.unmask",
    "result": "query.result",
    "offer": "query.offer",
    "publish": "query.publish",
}
"""Flower's message type for each kind of message."""
RAW = "partsong.raw.v1"
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.005, 1.0
_ERROR_NODE_UNAVAILABLE = 5


class GridExchange:
    """An exchange over a Flower Grid."""

    def __init__(self, grid: Grid) -> None:
        """Use `grid`, which outlives this object."""
        self._grid = grid

    def addresses(self) -> tuple[int, ...]:
        """Node ids that are connected now."""
        return tuple(sorted(self._grid.get_node_ids()))

    def ask(
        self, parcels: Mapping[int, Parcel], *, phase: str, timeout_s: float
    ) -> Iterator[tuple[int, Parcel | Loss]]:
        """Push one message per address and yield answers as they arrive.

        Polls by itself because Flower's own `send_and_receive` sleeps three seconds between looks and hands nothing
        over before the last answer. Error replies made by the server carry no node, so answers are matched by
        message id.
        """
        out = [self._message(parcel, node, phase=phase, ttl_s=timeout_s) for node, parcel in parcels.items()]
        waiting = dict(self._pushed(out))
        for node in set(parcels) - set(waiting.values()):
            yield node, Loss.SILENT
        deadline, pause_s = time.monotonic() + timeout_s, _FIRST_PAUSE_S
        while waiting:
            is_last = time.monotonic() >= deadline
            replies = [r for r in self._grid.pull_messages(list(waiting)) if r.metadata.reply_to_message_id in waiting]
            for reply in replies:
                node = waiting.pop(reply.metadata.reply_to_message_id)
                yield node, _parcel(reply, node)
            if is_last:
                return
            pause_s = _FIRST_PAUSE_S if replies else min(pause_s * 1.5, _LONGEST_PAUSE_S)
            time.sleep(min(pause_s, max(0.0, deadline - time.monotonic())) if waiting else 0)

    def _pushed(self, out: list[Message]) -> Iterator[tuple[str, int]]:
        """Push messages and give id and node of each that Flower took: it gives no id for a message that it could not
        push, and no ids at all for messages that are too large.
        """
        for message_id, message in zip(self._grid.push_messages(out), out, strict=False):
            if message_id:
                yield message_id, message.metadata.dst_node_id

    def _message(self, parcel: Parcel, node: int, *, phase: str, ttl_s: float) -> Message:
        content = RecordDict({"partsong": ConfigRecord({"header": parcel.header})})
        for name, data in (("vector", parcel.vector), ("note", parcel.note)):
            if data:
                raw = Array(dtype="uint8", shape=(len(data),), stype=RAW, data=data)
                content[name] = ArrayRecord({name: raw})
        return self._grid.create_message(content, MESSAGE_TYPES[phase], node, group_id=phase, ttl=ttl_s)


def make_app(run: Callable[[Exchange], None]) -> ServerApp:
    """Wrap a run into a ServerApp.

    Args:
        run: the whole run, given an exchange; its errors end the app.
    """
    app = ServerApp()

    @app.main()
    def main(grid: Grid, _context: Context) -> None:
        run(GridExchange(grid))

    return app


def _parcel(reply: Message, node: int) -> Parcel | Loss:
    if reply.has_error():
        return Loss.SILENT if reply.error.code == _ERROR_NODE_UNAVAILABLE else Loss.FAILED
    content = reply.content
    config = content.config_records.get("partsong")
    header = config.get("header") if config is not None else None
    if reply.metadata.src_node_id != node or not isinstance(header, bytes):
        return Loss.MALFORMED
    return Parcel(header=header, vector=_raw(content, "vector"), note=_raw(content, "note"))


def _raw(content: RecordDict, name: str) -> bytes:
    arrays = content.array_records.get(name)
    return arrays[name].data if arrays is not None and name in arrays else b""
