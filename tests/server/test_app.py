"""The exchange over a Flower Grid."""

import hashlib
import subprocess
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from partsong.common.identity.envelope import CoordinatorEnvelope, Letter, SiteEnvelope
from partsong.common.identity.keys import Identity
from partsong.server import app as server_app
from partsong.server.app import RAW, GridExchange
from partsong.server.exchange import Parcel
from partsong.server.rounds import Loss


class Scripted(Grid):
    """A Grid whose replies come in an order that a test sets, one pull at a time."""

    def __init__(self, ids: list[Any] | None = None) -> None:
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 7, 1
        self.ids = ids
        self.pushed: list[Message] = []
        self.pulls: list[list[str]] = []
        self.replies: list[list[Message]] = []

    def set_run(self, run: Run) -> None:
        raise NotImplementedError

    @property
    def run(self) -> Run:
        raise NotImplementedError

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> list[int]:
        return [5, 3, 4]

    def push_messages(self, messages: Iterable[Message]) -> list[Any]:
        self.pushed = list(messages)
        ids = [f"m{m.metadata.dst_node_id}" for m in self.pushed] if self.ids is None else self.ids
        for message, message_id in zip(self.pushed, ids, strict=False):
            message.metadata.__dict__["_message_id"] = message_id or ""
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        self.pulls.append(sorted(message_ids))
        return self.replies.pop(0) if self.replies else []

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        raise NotImplementedError

    def reply(self, node: int, content: RecordDict | Error) -> Message:
        asked = next(m for m in self.pushed if m.metadata.dst_node_id == node)
        return Message(content, reply_to=asked)


class Replying(Scripted):
    """A Grid that answers every message at the first pull."""

    def __init__(self, contents: dict[int, RecordDict | Error], **more: Any) -> None:
        super().__init__(**more)
        self.contents = contents

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        self.pulls.append(sorted(message_ids))
        contents, self.contents = self.contents, {}
        return [self.reply(node, content) for node, content in contents.items()]


def content(header: object = b"answer", vector: bytes | None = None) -> RecordDict:
    record = RecordDict({"partsong": ConfigRecord({"header": header})})  # type: ignore[dict-item]
    if vector is not None:
        raw = Array(dtype="uint8", shape=(len(vector),), stype=RAW, data=vector)
        record["vector"] = ArrayRecord({"vector": raw})
    return record


def ask(grid: Grid, *nodes: int, vector: bytes = b"", timeout_s: float = 0.05) -> dict[int, Parcel | Loss]:
    parcels = {node: Parcel(header=b"ask", vector=vector) for node in nodes}
    answers = list(GridExchange(grid).ask(parcels, phase="open", timeout_s=timeout_s))
    assert len(dict(answers)) == len(answers)
    return dict(answers)


def test_parcels_go_out_and_come_back_byte_for_byte() -> None:
    """Header as bytes, vector as one opaque array, in the phase's own message type, with the timeout as its life."""
    grid = Replying({3: content(vector=b"\x00\xff"), 4: content(b"other")})

    answers = ask(grid, 3, 4, vector=b"abc")

    assert answers == {3: Parcel(header=b"answer", vector=b"\x00\xff"), 4: Parcel(header=b"other")}
    (first, _) = grid.pushed
    assert first.metadata.message_type == "train"
    assert first.metadata.ttl == 0.05
    assert first.content["partsong"]["header"] == b"ask"
    assert first.content["vector"]["vector"].data == b"abc"
    assert grid.pulls == [["m3", "m4"]]
    assert GridExchange(grid).addresses() == (3, 4, 5)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (Error(ErrorCode.NODE_UNAVAILABLE, "gone"), Loss.SILENT),
        (Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, "the site failed"), Loss.FAILED),
        (RecordDict(), Loss.MALFORMED),
        (content("text"), Loss.MALFORMED),
        (content(7), Loss.MALFORMED),
        (content([b"a"]), Loss.MALFORMED),
    ],
)
def test_an_answer_that_is_none_says_why(answer: RecordDict | Error, expected: Loss) -> None:
    """Errors of Flower and content without a header never reach the coordinator as parcels."""
    assert ask(Replying({3: answer}), 3) == {3: expected}
    assert server_app._ERROR_NODE_UNAVAILABLE == ErrorCode.NODE_UNAVAILABLE


def test_an_answer_in_another_nodes_name_is_malformed() -> None:
    """A reply says which node wrote it; it has to be the one that was asked."""
    grid = Scripted()

    def late() -> Iterator[Any]:
        yield from GridExchange(grid).ask({3: Parcel(header=b"ask")}, phase="open", timeout_s=0.05)

    stream = late()
    grid.pull_messages = lambda _ids: [forged(grid)]  # type: ignore[method-assign,assignment]

    assert list(stream) == [(3, Loss.MALFORMED)]


def forged(grid: Scripted) -> Message:
    reply = grid.reply(3, content())
    reply.metadata.__dict__["_src_node_id"] = 4
    return reply


@pytest.mark.parametrize(("ids", "sent"), [(["", "m4"], {4}), ([None, "m4"], {4}), ([], set()), (["", None], set())])
def test_a_message_that_flower_did_not_take_is_a_silent_site(ids: list[Any], sent: set[int]) -> None:
    """No id, or (for messages that are too large) no ids at all: the round does not wait for them."""
    grid = Replying({node: content() for node in sent}, ids=ids)

    answers = ask(grid, 3, 4, timeout_s=60.0)

    assert answers == {node: Parcel(header=b"answer") if node in sent else Loss.SILENT for node in (3, 4)}


def test_a_site_that_never_answers_is_not_yielded_and_the_wait_ends() -> None:
    """The deadline passes; a last look is taken after it."""
    grid = Scripted()

    assert ask(grid, 3, 4, timeout_s=0.02) == {}
    assert len(grid.pulls) >= 2


def test_replies_to_other_messages_are_left_out() -> None:
    """A reply that comes twice, or to a message of another phase, is nobody's answer."""

    class Twice(Replying):
        def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
            self.contents = {3: content(), 5: content()}
            return super().pull_messages(message_ids)

    grid = Twice({})

    answers = dict(GridExchange(grid).ask({n: Parcel(header=b"a") for n in (3, 4, 5)}, phase="roster", timeout_s=0.02))

    assert set(answers) == {3, 5}


@pytest.mark.parametrize(
    "module", ["app", "rounds", "coordinator", "aggregate", "checkpoint", "exchange", "planning", "report"]
)
def test_the_coordinator_needs_no_torch(module: str) -> None:
    """Its machine holds no model."""
    code = f"import sys, partsong.server.{module}; sys.exit('torch' in sys.modules)"

    assert subprocess.run([sys.executable, "-P", "-c", code], check=False).returncode == 0


COORDINATOR, NORTH = (Identity(hashlib.sha256(name).digest()) for name in (b"coordinator", b"north"))


def signed_exchange(grid: Grid) -> GridExchange:
    """Node 3 is site north; the others are nobody."""
    keys = {"north": NORTH.public_key}
    envelope = CoordinatorEnvelope(run="run-1", signer=COORDINATOR, identity_keys=keys)
    return GridExchange(grid, site_at={3: "north"}.get, envelope=envelope)


class Signing(Scripted):
    """A Grid whose site signs what it answers; `twist` changes the fields of the answer."""

    def __init__(self, twist: dict[str, Any]) -> None:
        super().__init__()
        self.twist = twist

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        (asked,) = self.pushed
        site = SiteEnvelope(site="north", signer=NORTH, coordinator=COORDINATOR.public_key)
        fields = asked.content.config_records["partsong"]
        letter = Letter.read(fields, kind="open", vector=b"words", note=b"")
        answer = site.seal(
            run=letter.run, kind="open", question=site.open(letter), header=b"answer", vector=b"", note=b""
        )
        record = ConfigRecord({**answer.fields() | self.twist})
        return [self.reply(3, RecordDict({"partsong": record}))]


def ask_signed(grid: Grid, *nodes: int) -> dict[int, Parcel | Loss]:
    parcels = {node: Parcel(header=b"ask", vector=b"words") for node in nodes}
    return dict(signed_exchange(grid).ask(parcels, phase="open", timeout_s=0.05))


def test_with_an_envelope_questions_and_answers_are_signed() -> None:
    """The site opens the question, and the coordinator its answer; a node that is no site is sent nothing."""
    grid = Signing({})

    found = ask_signed(grid, 3, 4)

    assert found == {3: Parcel(header=b"answer"), 4: Loss.SILENT}
    assert [m.metadata.dst_node_id for m in grid.pushed] == [3]
    assert (signed_exchange(grid).site_at(3), signed_exchange(grid).site_at(4)) == ("north", None)


@pytest.mark.parametrize(
    "twist", [{"header": b"other"}, {"signature": bytes(64)}, {"site": "south"}, {"run": "run-2"}, {"version": 0}]
)
def test_an_answer_that_is_not_the_asked_sites_counts_as_malformed(twist: dict[str, Any]) -> None:
    """Whatever of it does not fit its signature."""
    assert ask_signed(Signing(twist), 3) == {3: Loss.MALFORMED}


def test_an_unsigned_answer_counts_as_malformed_where_signatures_are_due() -> None:
    """And as an answer where they are not."""
    assert ask_signed(Replying({3: content()}), 3) == {3: Loss.MALFORMED}
    assert ask(Replying({3: content()}), 3) == {3: Parcel(header=b"answer")}
