"""A site as a Flower ClientApp. It moves messages and decides nothing."""

from __future__ import annotations

from collections.abc import Callable

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from partsong.client.site import Answer, Site
from partsong.common.errors import WireError

RAW = "partsong.raw.v1"


def make_app(site_of: Callable[[Context], Site]) -> ClientApp:
    """Wrap sites into a ClientApp.

    Args:
        site_of: finds the site that a Flower context stands for; one process may play several.
    """
    app = ClientApp()

    @app.query("propose")
    def propose(message: Message, context: Context) -> Message:
        return _reply(message, site_of(context).propose(_header(message), _vector(message)))

    @app.train()
    def train(message: Message, context: Context) -> Message:
        return _reply(message, site_of(context).open(_header(message), _vector(message)))

    @app.query("roster")
    def roster(message: Message, context: Context) -> Message:
        return _reply(message, site_of(context).roster(_header(message)))

    return app


def _header(message: Message) -> bytes:
    config = message.content.config_records.get("partsong")
    header = config.get("header") if config is not None else None
    if not isinstance(header, bytes):
        raise WireError("flower message: no partsong header")
    return header


def _vector(message: Message) -> bytes:
    arrays = message.content.array_records.get("vector")
    return arrays["vector"].data if arrays is not None and "vector" in arrays else b""


def _reply(message: Message, answer: Answer) -> Message:
    content = RecordDict({"partsong": ConfigRecord({"header": answer.header})})
    if answer.vector:
        raw = Array(dtype="uint8", shape=(len(answer.vector),), stype=RAW, data=answer.vector)
        content["vector"] = ArrayRecord({"vector": raw})
    return Message(content, reply_to=message)
