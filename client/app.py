"""A site as a Flower ClientApp. It moves messages and decides nothing.

Covers: over a network, that no text of an exception leaves the site, and that nothing reaches it that the coordinator
of the charter has not signed for it (`make_remote_app`).
Does not cover: the transport's own security, and what a site's answers hold (`partsong.client.site`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import ClientAppCallable

from partsong.client.link.questions import Question, Reply
from partsong.common.errors import WireError
from partsong.common.identity.envelope import Letter, SiteEnvelope

if TYPE_CHECKING:  # a site brings torch along, moving messages does not need it
    from partsong.client.secure_sum.door import Answer
    from partsong.client.site import Site

RAW = "partsong.raw.v1"
_QUERIES = ("propose", "keys", "roster", "confirm", "unmask", "result", "offer", "publish")
"""Kinds of messages besides OPEN, which is Flower's `train`."""
_APP_RAISED = 2


def make_app(site_of: Callable[[Context], Site]) -> ClientApp:
    """Wrap sites into a ClientApp for a Grid in the same process, which sees their exceptions.

    Args:
        site_of: finds the site that a Flower context stands for; one process may play several.
    """
    return _routed(ClientApp(), site_of, None)


def make_remote_app(
    site_of: Callable[[Context], Site], *, on_error: Callable[[Exception], None], envelope: SiteEnvelope | None = None
) -> ClientApp:
    """Wrap a site into a ClientApp for a coordinator elsewhere.

    Guarantees: whatever goes wrong, the coordinator learns that it did and nothing else. Flower by itself would send
        type and text of the exception, and an exception of a library may quote a record.
    Args:
        site_of: finds the site that a Flower context stands for.
        on_error: told the exception, at the site.
        envelope: checks what the coordinator signed and signs the answers; None where another layer does it.
    """

    def conceal(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        try:
            return call_next(message, context)
        except Exception as err:  # noqa: BLE001 - every kind of error, so that none reaches Flower
            on_error(err)
            return Message(Error(_APP_RAISED, "the site failed"), reply_to=message)

    return _routed(ClientApp(mods=[conceal]), site_of, envelope)


def make_forwarding_app(ask: Callable[[Question, Context], Reply]) -> ClientApp:
    """Make a ClientApp that hands every message on to the site's daemon, for stock Flower.

    Guarantees: it reads nothing of a message but what names it; the daemon checks signatures and rules. Whatever goes
        wrong, the coordinator learns that it did and nothing else.
    Args:
        ask: hands a question over and waits for the answer.
    """
    app = ClientApp()

    def forward(kind: str) -> Callable[[Message, Context], Message]:
        def handle(message: Message, context: Context) -> Message:
            question = Question(
                message=message.metadata.message_id,
                run=message.metadata.run_id,
                kind=kind,
                fields=dict(_fields(message)),
                vector=_raw(message, "vector"),
                note=_raw(message, "note"),
            )
            try:
                reply = ask(question, context)
            except Exception:  # noqa: BLE001 - the daemon has told it at the site
                return Message(Error(_APP_RAISED, "the site failed"), reply_to=message)
            return _reply(message, reply, {**reply.fields})

        return handle

    app.train()(forward("open"))
    for kind in _QUERIES:
        app.query(kind)(forward(kind))
    return app


def _routed(app: ClientApp, site_of: Callable[[Context], Site], envelope: SiteEnvelope | None) -> ClientApp:
    def handler(kind: str) -> Callable[[Message, Context], Message]:
        def handle(message: Message, context: Context) -> Message:
            vector, note = _raw(message, "vector"), _raw(message, "note")
            if envelope is None:
                answer = site_of(context).handle(_header(message), vector=vector, note=note)
                return _reply(message, answer, {"header": answer.header})
            letter = Letter.read(_fields(message), kind=kind, vector=vector, note=note)
            question = envelope.open(letter)
            answer = site_of(context).handle(letter.header, vector=vector, note=note)
            sealed = envelope.seal(
                run=letter.run, kind=kind, question=question,
                header=answer.header, vector=answer.vector, note=answer.note,
            )  # fmt: skip
            return _reply(message, answer, sealed.fields())

        return handle

    app.train()(handler("open"))
    for kind in _QUERIES:
        app.query(kind)(handler(kind))
    return app


def _fields(message: Message) -> ConfigRecord:
    fields = message.content.get("partsong")
    return fields if isinstance(fields, ConfigRecord) else ConfigRecord()


def _header(message: Message) -> bytes:
    header = _fields(message).get("header")
    if not isinstance(header, bytes):
        raise WireError("flower message: no partsong header")
    return header


def _raw(message: Message, name: str) -> bytes:
    # Not by `content.array_records`, which refers to itself and so keeps the array until the collector comes by.
    arrays = message.content.get(name)
    return arrays[name].data if isinstance(arrays, ArrayRecord) and name in arrays else b""


def _reply(message: Message, answer: Answer | Reply, fields: dict[str, int | str | bytes]) -> Message:
    content = RecordDict({"partsong": ConfigRecord({**fields})})
    for name, data in (("vector", answer.vector), ("note", answer.note)):
        if data:
            content[name] = ArrayRecord({name: Array(dtype="uint8", shape=(len(data),), stype=RAW, data=data)})
    return Message(content, reply_to=message)
