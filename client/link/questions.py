"""What passes between a site and its connection: questions, replies, and what the connection tells."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from partsong.client.secure_sum.door import Answer
from partsong.common.identity.envelope import Letter, SiteEnvelope

Fields = Mapping[str, int | str | bytes]


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """One message of the coordinator as it arrived. Nothing of it is believed yet but its id."""

    message: str
    """Id: SHA-256 of the message's parts, 64 hex digits, checked."""
    run: int
    """Flower's run, which the coordinator starts anew whenever it resumes; not the plan's run."""
    kind: str
    """By the type of Flower's message: `propose` to `result`, if the coordinator keeps to the protocol."""
    fields: Mapping[str, object] = field(repr=False)
    """The header and what stands beside it, such as the signature."""
    vector: bytes = field(repr=False)
    note: bytes = field(repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """What goes back, in the same form."""

    fields: Fields = field(repr=False)
    vector: bytes = field(default=b"", repr=False)
    note: bytes = field(default=b"", repr=False)


Handle = Callable[[Question], Reply]
"""Checks a question, has the site answer it and signs. An exception tells the coordinator that the site failed, and
nothing else."""


def signed(envelope: SiteEnvelope, answer: Callable[..., Answer]) -> Handle:
    """Put the envelope around a site.

    Guarantees: the site sees nothing that the coordinator of the charter has not signed for it; what it answers is
        signed as the answer to this very question.
    Args:
        envelope: of this site.
        answer: such as `Site.handle`: takes a header, `vector` and `note`.
    """

    def handle(question: Question) -> Reply:
        letter = Letter.read(question.fields, kind=question.kind, vector=question.vector, note=question.note)
        digest = envelope.open(letter)
        found = answer(letter.header, vector=letter.vector, note=letter.note)
        sealed = envelope.seal(
            run=letter.run,
            kind=letter.kind,
            question=digest,
            header=found.header,
            vector=found.vector,
            note=found.note,
        )
        return Reply(fields=sealed.fields(), vector=sealed.vector, note=sealed.note)

    return handle


What = Literal[
    "connected",  # the coordinator answers (again)
    "unreachable",  # it does not; tried again after `wait_s`
    "refused",  # it does not take this site; tried again after `wait_s`
    "resumed",  # it still held the site for connected, as after a crash
    "arrived",  # every part of a question is in memory
    "journaled",  # the question is on disk
    "confirmed",  # the coordinator knows
    "handled",  # the site has answered
    "failed",  # the site raised `error`
    "kept",  # the answer is on disk
    "sending",  # the next part of the answer goes out
    "sent",  # all parts did
    "repeated",  # the question was answered before
    "dropped",  # question or answer: `reason`
    "heartbeat_failed",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Told:
    """Something happened on the connection. It stays at the site."""

    what: What
    message: str = ""
    """Id of the question; empty if there is none."""
    reason: str = ""
    rule: str = ""
    """That a dropped message breaks; empty where nobody waits for its answer any longer."""
    wait_s: float = 0.0
    error: Exception | None = None
