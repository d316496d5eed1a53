"""Files between the parties: one form each, signed, bounded, and no path in a name."""

import dataclasses
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partsong.common.identity import letters
from partsong.common.identity.keys import Identity, P384Identity
from partsong.common.identity.letters import Cosignature, Draft, Invitation, LetterError, Reply, Request

SIGNER = Identity(b"\x05" * 32)
INVITATION = letters.seal_letter(
    Invitation(
        consortium="oncology",
        suite="A",
        site="lyon",
        address="coordinator.example.org:7443",
        coordinator=SIGNER.public_key.hex(),
        authority="PEM",
        nonce="0" * 64,
        expires_s=1_800_000_000,
    ),
    SIGNER,
)
REQUEST = letters.seal_letter(
    Request(
        consortium="oncology", site="lyon", invitation="1" * 64, key=SIGNER.public_key.hex(), certificate_request="PEM"
    ),
    SIGNER,
)
DATA = letters.to_bytes(INVITATION)


def test_a_letter_is_read_back_and_its_seal_holds() -> None:
    """In both suites; under another key, or as another kind of letter, it does not."""
    back = letters.parse(Invitation, DATA, place="f")

    assert back == INVITATION
    letters.check_seal(back, key=SIGNER.public_key, whose="coordinator")
    other = P384Identity(b"\x05" * 48)
    with pytest.raises(LetterError, match="no valid signature of the coordinator"):
        letters.check_seal(back, key=other.public_key, whose="coordinator")
    letters.check_seal(letters.seal_letter(REQUEST, other), key=other.public_key, whose="site")
    with pytest.raises(LetterError, match="no valid signature"):
        letters.check_seal(
            dataclasses.replace(REQUEST, signature=INVITATION.signature), key=SIGNER.public_key, whose="site"
        )


@given(st.integers(0, len(DATA) - 1), st.integers(1, 255))
@settings(max_examples=200, deadline=None)
def test_no_changed_byte_goes_unseen(place: int, change: int) -> None:
    """It is another form, or the seal is broken."""
    data = bytearray(DATA)
    data[place] ^= change

    with pytest.raises(LetterError):
        letters.check_seal(
            letters.parse(Invitation, bytes(data), place="f"), key=SIGNER.public_key, whose="coordinator"
        )


@pytest.mark.parametrize(
    "change",
    [
        {"site": "../../etc/cron.d/x"},
        {"site": "lyon/.."},
        {"site": "lyon\x00"},
        {"consortium": "on\x1b[31mcology"},
        {"consortium": "x" * 51},
        {"address": "https://coordinator:7443"},
        {"coordinator": "AB" * 32},
        {"coordinator": "ab" * 97},
        {"nonce": "0"},
        {"expires_s": "soon"},
        {"more": 1},
        {"version": 2},
        {"format": "partsong-reply"},
    ],
)
def test_a_field_that_cannot_be_is_refused(change: dict[str, object]) -> None:
    """Paths, control characters, wrong sizes, unknown keys and other versions."""
    tree = json.loads(DATA) | change
    data = json.dumps(tree, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()

    with pytest.raises(LetterError, match="f"):
        letters.parse(Invitation, data, place="f")


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"[]", b"\xff\xfe", b"[" * 50_000, b'{"a":1,"a":2}', DATA + b" ", DATA[:-1]]
)
def test_what_is_no_letter_is_refused(data: bytes) -> None:
    """As each kind of letter."""
    for cls in (Invitation, Request, Reply, Draft, Cosignature):
        with pytest.raises(LetterError):
            letters.parse(cls, data, place="f")


def test_a_key_given_twice_is_not_the_one_form() -> None:
    """Readers that differ about it cannot disagree."""
    twice = DATA.replace(b'"site":"lyon"', b'"site":"porto","site":"lyon"')

    with pytest.raises(LetterError, match="not canonical"):
        letters.parse(Invitation, twice, place="f")


def test_a_file_is_read_up_to_a_size(tmp_path: Path) -> None:
    """One byte more is refused unread; so is one that is not there."""
    file = tmp_path / "big.json"
    file.write_bytes(b" " * letters.LARGEST_LETTER_BYTES)
    assert len(letters.read_file(file)) == letters.LARGEST_LETTER_BYTES
    file.write_bytes(b" " * (letters.LARGEST_LETTER_BYTES + 1))

    with pytest.raises(LetterError, match="more than two megabytes"):
        letters.read_file(file)
    with pytest.raises(LetterError, match=r"none\.json: found no file"):
        letters.read_file(tmp_path / "none.json")
