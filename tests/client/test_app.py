"""A site behind Flower messages."""

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


@pytest.mark.parametrize("module", ["rules.consent", "seal", "secure_sum.door", "budget.spending", "app"])
def test_deciding_sealing_and_moving_messages_need_no_torch(module: str) -> None:
    """What runs beside the model can be audited without it."""
    code = f"import sys, partsong.client.{module}; sys.exit('torch' in sys.modules)"

    assert subprocess.run([sys.executable, "-P", "-c", code], check=False).returncode == 0


def test_training_needs_torch() -> None:
    """Control: the check above can fail."""
    code = "import sys, partsong.client.train; sys.exit('torch' in sys.modules)"

    assert subprocess.run([sys.executable, "-P", "-c", code], check=False).returncode == 1
