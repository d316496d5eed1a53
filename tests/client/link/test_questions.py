"""What stands around a site."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import pytest

from partsong.client.link.questions import Question, Reply, signed
from partsong.client.secure_sum.door import Answer
from partsong.common.errors import WireError
from partsong.common.identity.envelope import CoordinatorEnvelope, Letter, SiteEnvelope
from partsong.common.identity.keys import Identity

COORDINATOR, NORTH = Identity.generate(os.urandom), Identity.generate(os.urandom)
OFFICE = CoordinatorEnvelope(run="run-1", signer=COORDINATOR, identity_keys={"north": NORTH.public_key})


def question(fields: Mapping[str, Any], *, kind: str = "open", vector: bytes = b"v") -> Question:
    return Question(message="0" * 64, run=7, kind=kind, fields=fields, vector=vector, note=b"n")


def handle(asked: Question, calls: list[bytes]) -> Reply:
    def answer(header: bytes, *, vector: bytes, note: bytes) -> Answer:
        calls.append(header)
        return Answer(header=b"re: " + header, vector=vector + b"!", note=note + b"?")

    site = SiteEnvelope(site="north", signer=NORTH, coordinator=COORDINATOR.public_key)
    return signed(site, answer)(asked)


def test_a_signed_question_gets_a_signed_answer() -> None:
    """Which the coordinator accepts for this question."""
    asked, digest = OFFICE.seal(kind="open", site="north", header=b"h", vector=b"v", note=b"n")

    reply = handle(question(asked.fields()), [])

    letter = Letter.read(reply.fields, kind="open", vector=reply.vector, note=reply.note)
    OFFICE.open(letter, kind="open", site="north", question=digest)
    assert (letter.header, reply.vector, reply.note) == (b"re: h", b"v!", b"n?")


@pytest.mark.parametrize("change", ["vector", "kind", "site", "signature", "no signature"])
def test_an_unsigned_question_never_reaches_the_site(change: str) -> None:
    """Each of these was not signed as it came."""
    site = "south" if change == "site" else "north"
    asked, _ = OFFICE.seal(kind="open", site=site, header=b"h", vector=b"v", note=b"n")
    fields: dict[str, Any] = dict(asked.fields())
    if change == "signature":
        fields = dict(dataclasses.replace(asked, signature=bytes(64)).fields())
    if change == "no signature":
        del fields["signature"]
    calls: list[bytes] = []

    with pytest.raises(WireError):
        handle(
            question(
                fields, vector=b"w" if change == "vector" else b"v", kind="roster" if change == "kind" else "open"
            ),
            calls,
        )

    assert calls == []
