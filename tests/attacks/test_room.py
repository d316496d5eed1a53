"""Many hostile sites hold all the room for answers at the coordinator's port; the others' answers arrive all the same."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.app.message.arraychunk import ArrayChunk
from flwr.app.message.message import remove_content_from_message
from flwr.common.serde import message_to_proto
from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.proto.message_pb2 import PushObjectRequest
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    no_object_id_recompute,
)
from hostile import fleet_end, without

from partsong.client.link.channel import ClientTls
from partsong.client.link.questions import signed
from partsong.client.secure_sum.door import Answer
from partsong.common.identity.envelope import SiteEnvelope
from partsong.server.exchange import Parcel
from partsong.server.link.gate import Limits
from partsong.server.link.room import Room

OpenPort = Callable[..., Any]
HONEST, HOSTILE = ("a", "b", "c"), tuple(f"x{number}" for number in range(6))
PART, MOST = 400_000, 2_500_000
"""All hostile sites together hold 2.4 MB."""
LIMITS = Limits(lease_s=20.0, hold_s=0.05, requests_per_s=500.0, burst=2000)


def echo(_header: bytes, *, vector: bytes, note: bytes) -> Answer:
    return Answer(header=b"honest", vector=bytes(PART), note=b"")


def connected(port: Any, name: str, folder: Path) -> Any:
    """A site's own connection, in a thread, at no more than twenty requests a second."""
    key = port.coordinator.public_key
    envelope = SiteEnvelope(site=name, signer=port.identities[name], coordinator=key)
    held = port.sites[name]
    tls = ClientTls(certificate=held.certificate_file, key=held.key_file, authority=port.authority.file)
    (folder / name).mkdir()
    return fleet_end().Running(
        port.superlink.port, tls, folder / name, signed(envelope, echo), wait=lambda stop, _s: stop.wait(0.05)
    )


def half(question: Message) -> Message:
    """An answer of which the first part is large and the rest never comes."""
    data = bytes([question.metadata.dst_node_id % 251]) * PART
    raw = Array(dtype="uint8", shape=(PART,), stype="partsong.raw.v1", data=data)
    content = RecordDict({"partsong": ConfigRecord({"header": b"h"}), "vector": ArrayRecord({"vector": raw})})
    return Message(content, reply_to=question)


class Besieger:
    """A hostile site that brings the large part of its answer again and again, and never the rest."""

    def __init__(self, port: Any, name: str) -> None:
        self.own = port.connect(name)

    def go_on(self, ends: threading.Event) -> None:
        while (question := self.own.pull()) is None:
            pass
        self.own.confirm(question)
        self.own.context(question)
        reply = half(question)
        with no_object_id_recompute():
            reply.metadata.__dict__["_message_id"] = reply.object_id
            head, tree = message_to_proto(remove_content_from_message(reply)), get_object_tree(reply)
            (large,) = [part for part in get_all_nested_objects(reply).values() if isinstance(part, ArrayChunk)]
        push = PushMessagesRequest(node=self.own.node, messages_list=[head], message_object_trees=[tree])
        bring = PushObjectRequest(
            node=self.own.node, run_id=question.metadata.run_id, session_id=question.metadata.message_id,
            object_id=large.object_id, object_content=large.deflate(),
        )  # fmt: skip
        while not ends.wait(0.01):
            with contextlib.suppress(httpx.HTTPError):
                if large.object_id in self.own.client.PushMessages(push).objects_to_push:
                    self.own.client.PushObject(bring)


class Clock:
    """Real time, and leaps."""

    leapt_s = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.leapt_s


@dataclass
class Siege:
    """Hostile sites at work, honest ones connected, and the coordinator's end."""

    port: Any
    clock: Clock
    exchange: Any
    nodes: dict[str, int]
    found: dict[str, Any] = field(default_factory=dict)

    @property
    def room(self) -> Room:
        return self.port.superlink._room  # type: ignore[no-any-return]

    def ask(self, names: tuple[str, ...]) -> threading.Thread:
        """Ask these sites in the background."""

        def asking() -> None:
            asked = {self.nodes[name]: Parcel(header=b"h") for name in names}
            for node, answer in self.exchange.ask(asked, phase="roster", timeout_s=90):
                self.found[self.exchange.site_at(node)] = answer

        thread = threading.Thread(target=asking, daemon=True)
        thread.start()
        return thread

    def sent_away(self) -> set[str]:
        """Who was told that there is no room."""
        return {site for site, code in self.port.refusals if code == "no_room"}


@pytest.fixture
def siege(open_port: OpenPort, tmp_path: Path) -> Iterator[Siege]:
    """A port at which hostile sites bring half an answer again and again."""
    clock, ends = Clock(), threading.Event()
    port = open_port(*HONEST, *HOSTILE, max_waiting_bytes=MOST, limits=LIMITS, clock=clock)
    with ExitStack() as stack:
        for name in HONEST:
            stack.enter_context(connected(port, name, tmp_path)).until_told("connected")
        besiegers = [Besieger(port, name) for name in HOSTILE]
        exchange = port.exchange()
        for besieger in besiegers:
            stack.enter_context(ended(threading.Thread(target=besieger.go_on, args=(ends,)), ends))
        yield Siege(port, clock, exchange, port.nodes(exchange))
        ends.set()


@contextlib.contextmanager
def ended(thread: threading.Thread, ends: threading.Event) -> Iterator[None]:
    thread.start()
    yield
    ends.set()
    thread.join()


def until(fact: Callable[[], bool]) -> None:
    ends_s = time.monotonic() + 30
    while not fact():
        assert time.monotonic() < ends_s
        time.sleep(0.01)


def test_hostile_sites_that_hold_all_the_room_keep_nobody_out(siege: Siege) -> None:
    """The honest are sent away until a lease is over, come again, and are in; there is never more than fits."""
    siege.ask(HOSTILE)
    until(lambda: siege.room.used > MOST - PART)
    honest = siege.ask(HONEST)
    until(lambda: siege.sent_away() >= set(HONEST))
    before, most = dict(siege.found), siege.room.used

    siege.clock.leapt_s = LIMITS.lease_s + 1

    until(lambda: not honest.is_alive())
    assert before == {}
    assert max(most, siege.room.used) <= MOST
    assert sorted(siege.found) == sorted(HONEST)
    assert all(isinstance(answer, Parcel) and answer.header == b"honest" for answer in siege.found.values())


def test_without_the_bound_memory_grows_with_the_sites(siege: Siege, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: there is room for one, and everything is taken."""
    without(monkeypatch, Room, "take", "raise NoRoom", "pass")
    monkeypatch.setattr(siege.room, "_most_bytes", PART)

    siege.ask(HOSTILE)

    until(lambda: siege.room.used > len(HOSTILE) * PART)
