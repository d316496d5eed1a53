"""The coordinator as a Flower ServerApp. It moves messages and decides nothing.

Each parcel is a Flower message: the header as bytes in a ConfigRecord, vector and note as opaque Arrays (Flower cuts
arrays, not configs, into chunks that survive slow links). Over a network each message is signed: run, site, version and
signature stand beside the header.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp

from partsong.common.errors import WireError
from partsong.common.identity.envelope import CoordinatorEnvelope, Letter
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


_Fields = dict[str, int | str | bytes]
_Check = Callable[[Mapping[str, object], bytes, bytes], None]
"""Raises WireError unless fields, vector and note of an answer are those of the asked site."""


class GridExchange:
    """An exchange over a Flower Grid."""

    def __init__(
        self,
        grid: Grid,
        *,
        site_at: Callable[[int], str | None] = lambda _node: None,
        envelope: CoordinatorEnvelope | None = None,
        pause: Callable[[float], object] = time.sleep,
    ) -> None:
        """Use `grid`, which outlives this object.

        Args:
            grid: carries the messages.
            site_at: tells which site a node is, where the transport knows.
            envelope: signs questions and checks answers; None in a simulation. With one, a node that is no site is
                sent nothing.
            pause: waits between two looks for answers, at most so many seconds.
        """
        self._grid, self._site_at, self._envelope, self._pause = grid, site_at, envelope, pause

    def addresses(self) -> tuple[int, ...]:
        """Node ids that are connected now."""
        return tuple(sorted(self._grid.get_node_ids()))

    def site_at(self, address: int) -> str | None:
        """The site of a node, where the transport knows."""
        return self._site_at(address)

    def ask(
        self, parcels: Mapping[int, Parcel], *, phase: str, timeout_s: float
    ) -> Iterator[tuple[int, Parcel | Loss]]:
        """Push one message per address and yield answers as they arrive.

        Polls by itself because Flower's own `send_and_receive` sleeps three seconds between looks and hands nothing
        over before the last answer. Error replies made by the server carry no node, so answers are matched by
        message id.
        """
        out, checks = list[Message](), dict[int, _Check]()
        records: dict[int, ArrayRecord] = {}
        for node, parcel in parcels.items():
            for fields, check in self._sealed(parcel, node, phase):
                checks[node] = check
                out.append(self._message(fields, parcel, node, phase=phase, ttl_s=timeout_s, records=records))
        waiting = dict(self._pushed(out))
        for node in set(parcels) - set(waiting.values()):
            yield node, Loss.SILENT
        deadline, pause_s = time.monotonic() + timeout_s, _FIRST_PAUSE_S
        while waiting:
            is_last = time.monotonic() >= deadline
            replies = [r for r in self._grid.pull_messages(list(waiting)) if r.metadata.reply_to_message_id in waiting]
            for reply in replies:
                node = waiting.pop(reply.metadata.reply_to_message_id)
                yield node, _parcel(reply, node, checks[node])
            if is_last:
                return
            pause_s = _FIRST_PAUSE_S if replies else min(pause_s * 1.5, _LONGEST_PAUSE_S)
            if waiting:
                self._pause(min(pause_s, max(0.0, deadline - time.monotonic())))

    def _pushed(self, out: list[Message]) -> Iterator[tuple[str, int]]:
        """Push messages and give id and node of each that Flower took: it gives no id for a message that it could not
        push, and no ids at all for messages that are too large.
        """
        for message_id, message in zip(self._grid.push_messages(out), out, strict=False):
            if message_id:
                yield message_id, message.metadata.dst_node_id

    def _sealed(self, parcel: Parcel, node: int, phase: str) -> Iterator[tuple[_Fields, _Check]]:
        """Give the fields of a question and the check of its answer; nothing for a node that is no site."""
        envelope, site = self._envelope, self._site_at(node)
        if envelope is None:
            yield {"header": parcel.header}, lambda _fields, _vector, _note: None
        elif site is not None:
            letter, question = envelope.seal(
                kind=phase, site=site, header=parcel.header, vector=parcel.vector, note=parcel.note
            )

            def check(fields: Mapping[str, object], vector: bytes, note: bytes) -> None:
                answer = Letter.read(fields, kind=phase, vector=vector, note=note)
                envelope.open(answer, kind=phase, site=site, question=question)

            yield letter.fields(), check

    def _message(
        self,
        fields: _Fields,
        parcel: Parcel,
        node: int,
        *,
        phase: str,
        ttl_s: float,
        records: dict[int, ArrayRecord],
    ) -> Message:
        """Write a question. Vectors and notes that several sites get are one record, cut and hashed once."""
        content = RecordDict({"partsong": ConfigRecord({**fields})})
        for name, data in (("vector", parcel.vector), ("note", parcel.note)):
            if data:
                if id(data) not in records:
                    raw = Array(dtype="uint8", shape=(len(data),), stype=RAW, data=data)
                    records[id(data)] = ArrayRecord({name: raw})
                content[name] = records[id(data)]
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


def _parcel(reply: Message, node: int, check: _Check) -> Parcel | Loss:
    if reply.has_error():
        return Loss.SILENT if reply.error.code == _ERROR_NODE_UNAVAILABLE else Loss.FAILED
    content = reply.content
    fields = content.get("partsong")
    if not isinstance(fields, ConfigRecord):
        return Loss.MALFORMED
    header, vector, note = fields.get("header"), _raw(content, "vector"), _raw(content, "note")
    if reply.metadata.src_node_id != node or not isinstance(header, bytes):
        return Loss.MALFORMED
    try:
        check(fields, vector, note)
    except WireError:
        return Loss.MALFORMED
    return Parcel(header=header, vector=vector, note=note)


def _raw(content: RecordDict, name: str) -> bytes:
    # Not by `content.array_records`, which refers to itself and so keeps the array until the collector comes by.
    arrays = content.get(name)
    return arrays[name].data if isinstance(arrays, ArrayRecord) and name in arrays else b""
