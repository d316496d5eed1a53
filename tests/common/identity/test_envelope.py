"""The signature around every message."""

import dataclasses
import hashlib
import os
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partsong.common.errors import WireError
from partsong.common.identity.envelope import (
    ENVELOPE_VERSION,
    KINDS,
    CoordinatorEnvelope,
    Letter,
    SiteEnvelope,
    answer_digest,
    question_digest,
)
from partsong.common.identity.keys import Identity, P384Identity, make_identity
from partsong.common.identity.suite import SUITES, SuiteName

COORDINATOR, NORTH, SOUTH = (Identity(hashlib.sha256(n).digest()) for n in (b"coordinator", b"north", b"south"))
PARTS: dict[str, Any] = {"header": b"header", "vector": b"vector", "note": b"note"}


def coordinator(run: str = "run-1", signer: Identity = COORDINATOR) -> CoordinatorEnvelope:
    keys = {"north": NORTH.public_key, "south": SOUTH.public_key}
    return CoordinatorEnvelope(run=run, signer=signer, identity_keys=keys)


def site(name: str = "north", signer: Identity = NORTH) -> SiteEnvelope:
    return SiteEnvelope(site=name, signer=signer, coordinator=COORDINATOR.public_key)


def question(kind: str = "open", to: str = "north", run: str = "run-1") -> tuple[Letter, bytes]:
    return coordinator(run).seal(kind=kind, site=to, **PARTS)


def answer(asked: bytes, by: SiteEnvelope | None = None, kind: str = "open", run: str = "run-1") -> Letter:
    return (by or site()).seal(run=run, kind=kind, question=asked, **PARTS)


@pytest.mark.parametrize("suite", SUITES)
def test_both_suites_sign_and_check(suite: SuiteName) -> None:
    """A question and its answer are accepted on the other side, in either suite."""
    keys: list[Identity | P384Identity] = [make_identity(suite, os.urandom) for _ in range(2)]
    ours = CoordinatorEnvelope(run="run-1", signer=keys[0], identity_keys={"north": keys[1].public_key})
    theirs = SiteEnvelope(site="north", signer=keys[1], coordinator=keys[0].public_key)

    for kind in KINDS:
        sent, digest = ours.seal(kind=kind, site="north", **PARTS)
        opened = theirs.open(sent)
        back = theirs.seal(run=sent.run, kind=kind, question=opened, **PARTS)
        ours.open(back, kind=kind, site="north", question=digest)

        assert opened == digest


def test_what_is_signed_by_hand() -> None:
    """Labelled, framed parts in the order of the specification, long ones by their SHA-256."""

    def framed(*parts: bytes) -> bytes:
        return b"".join(len(p).to_bytes(8, "big") + p for p in parts)

    hashes = [hashlib.sha256(PARTS[name]).digest() for name in ("header", "vector", "note")]
    rest = (b"\0\0\0\1", b"run-1", b"open", b"north", *hashes)
    asked = hashlib.sha256(framed(b"partsong/1 envelope question", *rest)).digest()
    answered = hashlib.sha256(framed(b"partsong/1 envelope answer", asked, *rest)).digest()

    sent, digest = question()

    assert (digest, sent.signature) == (asked, COORDINATOR.sign(asked))
    assert answer(digest).signature == NORTH.sign(answered)


CHANGES: list[tuple[str, Any]] = [
    ("run", "run-2"),
    ("kind", "roster"),
    ("header", b"Header"),
    ("header", b"headervector"),
    ("vector", b""),
    ("note", b"note\0"),
    ("signature", b""),
    ("signature", bytes(64)),
    ("signature", bytes(96)),
]


@pytest.mark.parametrize(("name", "value"), CHANGES)
def test_a_changed_question_is_dropped(name: str, value: Any) -> None:
    """Whatever part of it was changed on the way."""
    changed = dataclasses.replace(question()[0], **{name: value})

    with pytest.raises(WireError, match="not signed by the coordinator"):
        site().open(changed)


@pytest.mark.parametrize(("name", "value"), CHANGES)
def test_a_changed_answer_is_dropped(name: str, value: Any) -> None:
    """Whatever part of it was changed on the way."""
    _, asked = question()
    changed = dataclasses.replace(answer(asked), **{name: value})

    with pytest.raises(WireError, match="dropped unread"):
        coordinator().open(changed, kind="open", site="north", question=asked)


@given(part=st.sampled_from(["header", "vector", "note", "signature"]), place=st.integers(0, 511), data=st.data())
@settings(deadline=None, max_examples=150)
def test_no_flipped_bit_passes(part: str, place: int, data: st.DataObject) -> None:
    """In any part of a question or an answer."""
    sent, asked = question()
    back = answer(asked)
    letter = data.draw(st.sampled_from([sent, back]))
    raw = bytearray(getattr(letter, part))
    raw[place // 8 % len(raw)] ^= 1 << place % 8
    changed = dataclasses.replace(letter, **{part: bytes(raw)})

    def opened() -> None:
        if letter is sent:
            site().open(changed)
        else:
            coordinator().open(changed, kind="open", site="north", question=asked)

    with pytest.raises(WireError, match="not signed"):
        opened()


@given(
    a=st.tuples(st.text("ab", max_size=3), st.text("ab", max_size=3), st.binary(max_size=3), st.binary(max_size=3)),
    b=st.tuples(st.text("ab", max_size=3), st.text("ab", max_size=3), st.binary(max_size=3), st.binary(max_size=3)),
)
@settings(deadline=None)
def test_no_two_messages_have_one_digest(a: tuple[Any, ...], b: tuple[Any, ...]) -> None:
    """Borders between the parts cannot be moved."""
    letters = [Letter(version=1, run=x[0], kind="open", site=x[1], header=b"h", vector=x[2], note=x[3]) for x in (a, b)]

    digests = [question_digest(letter) for letter in letters] + [
        answer_digest(letter, question=bytes(32)) for letter in letters
    ]

    assert len(set(digests)) == (2 if a == b else 4)


def test_a_question_is_for_one_site() -> None:
    """What another site was asked cannot be shown to this one, signed as it is."""
    with pytest.raises(WireError, match="to another site"):
        site().open(question(to="south")[0])


REPLAYS: dict[str, Callable[[bytes], tuple[Letter, dict[str, Any]]]] = {
    "by another site under its own name": lambda q: (answer(q, site("south", SOUTH)), {}),
    "by another site under the asked name": lambda q: (answer(q, site("north", SOUTH)), {}),
    "to another question": lambda _: (answer(question(run="run-1", kind="open", to="south")[1]), {}),
    "of another kind": lambda q: (answer(q, kind="roster"), {}),
    "of another run": lambda q: (answer(q, run="run-2"), {}),
    "the question itself": lambda _: (question()[0], {}),
    "by a site that is in no charter": lambda q: (answer(q, site("west", SOUTH)), {"site": "west"}),
}


@pytest.mark.parametrize("name", REPLAYS)
def test_another_answer_is_dropped(name: str) -> None:
    """An answer counts for the one site and the one question that it was signed for."""
    _, asked = question()
    letter, changes = REPLAYS[name](asked)

    with pytest.raises(WireError, match="dropped unread"):
        coordinator().open(letter, **({"kind": "open", "site": "north", "question": asked} | changes))


def test_the_previous_version_is_refused_by_name() -> None:
    """Both sides name both versions and the remedy, whether or not the signature would fit."""
    sent, asked = question()
    back = answer(asked)
    for version in (ENVELOPE_VERSION - 1, ENVELOPE_VERSION + 1):
        old = dataclasses.replace(back, version=version)
        with pytest.raises(WireError, match=f"version {version}, and this side speaks {ENVELOPE_VERSION}; install"):
            site().open(dataclasses.replace(sent, version=version))
        with pytest.raises(WireError, match=f"version {version}, and this side speaks {ENVELOPE_VERSION}; install"):
            coordinator().open(old, kind="open", site="north", question=asked)


@pytest.mark.parametrize("name", ["version", "run", "site", "header", "signature"])
@pytest.mark.parametrize("value", [None, 1.5, True, b"1", "1", [1]])
def test_a_field_of_another_type_is_dropped(name: str, value: Any) -> None:
    """Fields come from a stranger: each has one type, and none may be missing."""
    fields: dict[str, Any] = question()[0].fields()
    if isinstance(value, type(fields[name])) and not isinstance(value, bool):
        value = None

    with pytest.raises(WireError, match="dropped unread"):
        Letter.read(fields | {name: value}, kind="open", vector=b"", note=b"")
    del fields[name]
    with pytest.raises(WireError, match="dropped unread"):
        Letter.read(fields, kind="open", vector=b"", note=b"")


def test_fields_come_back_as_they_were() -> None:
    """What one side writes beside vector and note the other side reads."""
    sent, _ = question()

    back = Letter.read(sent.fields(), kind=sent.kind, vector=sent.vector, note=sent.note)

    assert back == sent


@pytest.mark.parametrize("run", ["", "a\nb", "x" * 201])
def test_names_that_cannot_be_shown_are_dropped(run: str) -> None:
    """They would end in a log; a coordinator does not start with one either."""
    with pytest.raises(WireError, match="a name that does not exist"):
        site().open(dataclasses.replace(question()[0], run=run))
    with pytest.raises(ValueError, match="run as a name"):
        coordinator(run)


def test_nothing_of_a_message_is_shown() -> None:
    """A letter that ends in a log by mistake shows no vector, note or signature."""
    assert all(word not in repr(question()[0]) for word in ("header", "vector", "note", "signature"))


def test_a_kind_and_a_site_that_do_not_exist_are_dropped_by_name() -> None:
    """Whoever signed: such a question is not looked at further, also where the site would be called so."""
    for kind, name in (("shutdown", "north"), ("open", "no\nrth")):
        sent, _ = coordinator().seal(kind=kind, site=name, **PARTS)

        with pytest.raises(WireError, match="a kind or a name that does not exist"):
            site(name).open(sent)


def test_a_site_cannot_sign_as_another_one() -> None:
    """Its own key, over an answer that says it is another's."""
    _, asked = question()
    forged = answer(asked, by=site("south", signer=NORTH))

    with pytest.raises(WireError, match="the answer of another site"):
        coordinator().open(forged, kind="open", site="north", question=asked)


def test_a_key_of_no_suite_signs_nothing() -> None:
    """It is dropped as any other forgery is."""
    sent, _ = question()
    envelope = SiteEnvelope(site="north", signer=NORTH, coordinator=b"short")

    with pytest.raises(WireError, match="not signed by the coordinator"):
        envelope.open(sent)
