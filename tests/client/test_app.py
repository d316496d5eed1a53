"""A site behind Flower messages."""

import hashlib
import subprocess
import sys
from typing import Any

import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode
from flwr.supercore.task_identity import TaskIdentity

from partsong.client import app as client_app
from partsong.client.app import RAW, make_app, make_remote_app
from partsong.client.secure_sum.door import Answer
from partsong.common.errors import WireError
from partsong.common.identity.envelope import CoordinatorEnvelope, Letter, SiteEnvelope
from partsong.common.identity.keys import Identity
from partsong.server.app import MESSAGE_TYPES

CONTEXT = Context(run_id=7, node_id=3, node_config={"site": "north"}, state=RecordDict(), run_config={})
SECRET = "patient Smith, 2021-03-04"


class Echo:
    """Stands where a site stands and says what reached it."""

    def handle(self, header: bytes, *, vector: bytes, note: bytes) -> Answer:
        if header == b"fail":
            raise ValueError(SECRET)
        return Answer(header=b"answer to " + header, vector=vector[::-1], note=note)


def site_of(context: Context) -> Any:
    assert context.node_config["site"] == "north"
    return Echo()


def message(kind: str, *, header: object = b"h", vector: bytes = b"", note: bytes = b"") -> Message:
    """What a coordinator would send."""
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 7, 1
    content = RecordDict({"partsong": ConfigRecord({"header": header})})  # type: ignore[dict-item]
    for name, data in (("vector", vector), ("note", note)):
        if data:
            content[name] = ArrayRecord({name: Array(dtype="uint8", shape=(len(data),), stype=RAW, data=data)})
    out = Message(content, 3, kind)
    out.metadata.__dict__["_message_id"] = "m1"
    return out


def apps() -> list[ClientApp]:
    return [make_app(site_of), make_remote_app(site_of, on_error=lambda _: None)]


@pytest.mark.parametrize("app", apps(), ids=["local", "remote"])
def test_messages_reach_the_site_and_answers_come_back(app: ClientApp) -> None:
    """Header, vector and note, byte for byte, of every kind of message."""
    for kind in MESSAGE_TYPES.values():
        answer = app(message(kind, vector=b"\x00\x01\xff", note=b"n"), CONTEXT)

        assert answer.content["partsong"]["header"] == b"answer to h"
        assert answer.content["vector"]["vector"].data == b"\xff\x01\x00"
        assert answer.content["note"]["note"].data == b"n"
        assert answer.metadata.reply_to_message_id == "m1"
        assert set(app(message(kind), CONTEXT).content) == {"partsong"}


def test_a_message_without_a_header_is_refused() -> None:
    """Text instead of bytes is no header."""
    with pytest.raises(WireError, match="no partsong header"):
        make_app(site_of)(message("train", header="h"), CONTEXT)


def test_over_a_network_no_text_of_an_exception_leaves_the_site() -> None:
    """The coordinator gets a constant; the operator of the site gets the exception."""
    told: list[Exception] = []

    reply = make_remote_app(site_of, on_error=told.append)(message("query.roster", header=b"fail"), CONTEXT)

    assert reply.has_error()
    assert reply.error.code == ErrorCode.CLIENT_APP_RAISED_EXCEPTION == client_app._APP_RAISED
    assert reply.error.reason == "the site failed"
    assert [str(err) for err in told] == [SECRET]


def test_without_that_flower_would_be_given_the_text() -> None:
    """Control: the plain app lets the exception out, and Flower sends what it says."""
    with pytest.raises(ValueError, match=SECRET):
        make_app(site_of)(message("query.roster", header=b"fail"), CONTEXT)


COORDINATOR, NORTH = (Identity(hashlib.sha256(name).digest()) for name in (b"coordinator", b"north"))


def question(kind: str = "roster", *, signer: Identity = COORDINATOR, **changes: Any) -> Message:
    """What the coordinator of the charter would send over a network."""
    ours = CoordinatorEnvelope(run="run-1", signer=signer, identity_keys={"north": NORTH.public_key})
    letter, _ = ours.seal(kind=kind, site="north", header=b"h", vector=b"ab", note=b"n")
    asked = message(f"query.{kind}", vector=b"ab", note=b"n")
    asked.content["partsong"] = ConfigRecord({**letter.fields() | changes})
    return asked


def signing_app(told: list[Exception]) -> ClientApp:
    envelope = SiteEnvelope(site="north", signer=NORTH, coordinator=COORDINATOR.public_key)
    return make_remote_app(site_of, on_error=told.append, envelope=envelope)


def test_with_an_envelope_a_signed_question_gets_a_signed_answer() -> None:
    """The coordinator can open it, over this question."""
    told: list[Exception] = []
    ours = CoordinatorEnvelope(run="run-1", signer=COORDINATOR, identity_keys={"north": NORTH.public_key})
    _, digest = ours.seal(kind="roster", site="north", header=b"h", vector=b"ab", note=b"n")

    reply = signing_app(told)(question(), CONTEXT)

    back = Letter.read(reply.content.config_records["partsong"], kind="roster", vector=b"ba", note=b"n")
    ours.open(back, kind="roster", site="north", question=digest)
    assert back.header == b"answer to h"
    assert told == []


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        (question(signer=NORTH), "not signed by the coordinator"),
        (question(header=b"other"), "not signed by the coordinator"),
        (question(site="south"), "to another site"),
        (question(version=0), "version 0, and this side speaks 1"),
        (message("query.roster"), "no version, run and site"),
    ],
)
def test_what_the_coordinator_did_not_sign_never_reaches_the_site(asked: Message, why: str) -> None:
    """It is dropped by name here, and the coordinator learns that something failed."""
    told: list[Exception] = []

    reply = signing_app(told)(asked, CONTEXT)

    assert reply.has_error()
    assert [type(err) for err in told] == [WireError]
    assert why in str(told[0])


@pytest.mark.parametrize("module", ["rules.consent", "seal", "secure_sum.door", "budget.spending", "app"])
def test_deciding_sealing_and_moving_messages_need_no_torch(module: str) -> None:
    """What runs beside the model can be audited without it."""
    code = f"import sys, partsong.client.{module}; sys.exit('torch' in sys.modules)"

    assert subprocess.run([sys.executable, "-P", "-c", code], check=False).returncode == 0


def test_training_needs_torch() -> None:
    """Control: the check above can fail."""
    code = "import sys, partsong.client.training.train; sys.exit('torch' in sys.modules)"

    assert subprocess.run([sys.executable, "-P", "-c", code], check=False).returncode == 1
