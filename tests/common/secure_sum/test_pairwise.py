"""Pair keys: equal at both ends and bound to their place, in both suites."""

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partsong.common.errors import WireError
from partsong.common.identity.suite import (
    EXCHANGE_KEY_BYTES,
    KEM_KEY_BYTES,
    LATTICE_KEY_BYTES,
    SEALED_BYTES,
    SUITES,
    SuiteName,
)
from partsong.common.secure_sum.pairwise import (
    KeyAgreementFailed,
    SetupKeys,
    make_setup_keys,
    open_secret,
    pair_key,
    seal_secret,
)

TRANSCRIPT = bytes(32)
ONE: dict[str, SetupKeys] = {suite: make_setup_keys(os.urandom, suite=suite) for suite in SUITES}
TWO: dict[str, SetupKeys] = {suite: make_setup_keys(os.urandom, suite=suite) for suite in SUITES}
pytestmark = pytest.mark.parametrize("suite", SUITES)


def sealed(suite: SuiteName, secret: bytes = b"s" * 32) -> bytes:
    return seal_secret(
        secret, kem_public=TWO[suite].kem_public, transcript=TRANSCRIPT, sender=1, receiver=2, suite=suite
    )


def test_both_sites_get_the_same_key(suite: SuiteName) -> None:
    """Whoever computes it, and another key for another transcript, secret or pair."""
    own, other = ONE[suite], TWO[suite]

    def both(transcript: bytes = TRANSCRIPT, secret: bytes = b"s" * 32, peer: int = 2) -> tuple[bytes, bytes]:
        one = pair_key(secret, keys=own, peer_public=other.exchange_public, transcript=transcript, own=1, peer=peer)
        two = pair_key(secret, keys=other, peer_public=own.exchange_public, transcript=transcript, own=peer, peer=1)
        return one, two

    keys = [both(), both(transcript=b"t" * 32), both(secret=b"x" * 32), both(peer=3)]

    assert all(one == two for one, two in keys)
    assert len({one for one, _ in keys}) == 4


def test_a_sealed_secret_opens_at_its_receiver(suite: SuiteName) -> None:
    """And has the size that the format says, as have the keys."""
    assert len(TWO[suite].exchange_public) == EXCHANGE_KEY_BYTES.of(suite)
    assert len(TWO[suite].kem_public) == KEM_KEY_BYTES.of(suite)
    assert len(sealed(suite)) == SEALED_BYTES.of(suite)
    assert open_secret(sealed(suite), keys=TWO[suite], transcript=TRANSCRIPT, sender=1, receiver=2) == b"s" * 32


@pytest.mark.parametrize(
    "change", [{"keys": ONE}, {"transcript": b"t" * 32}, {"sender": 3}, {"receiver": 3}, {"sender": 2, "receiver": 1}]
)
def test_it_opens_nowhere_else(suite: SuiteName, change: dict[str, object]) -> None:
    """Not at another site, in another set-up or as another pair's."""
    place = {"keys": TWO, "transcript": TRANSCRIPT, "sender": 1, "receiver": 2} | change

    with pytest.raises(KeyAgreementFailed, match="no key was agreed"):
        open_secret(sealed(suite), **(place | {"keys": place["keys"][suite]}))


@settings(deadline=None, max_examples=30)
@given(st.data())
def test_a_changed_bit_does_not_open(suite: SuiteName, data: st.DataObject) -> None:
    """Anywhere in lattice part, curve part, secret or tag."""
    changed = bytearray(sealed(suite))
    bit = data.draw(st.integers(0, 8 * len(changed) - 1))
    changed[bit // 8] ^= 1 << bit % 8

    with pytest.raises(KeyAgreementFailed):
        open_secret(bytes(changed), keys=TWO[suite], transcript=TRANSCRIPT, sender=1, receiver=2)


@pytest.mark.parametrize("size", [0, 31, 1119, -1, None])
def test_another_length_does_not_open(suite: SuiteName, size: int | None) -> None:
    """Short and long messages end like changed ones."""
    wrong = sealed(suite) + b"x" if size is None else sealed(suite)[:size]

    with pytest.raises(KeyAgreementFailed):
        open_secret(wrong, keys=TWO[suite], transcript=TRANSCRIPT, sender=1, receiver=2)


def test_a_secret_of_another_length_is_refused(suite: SuiteName) -> None:
    """The sender cannot choose a short secret."""
    with pytest.raises(KeyAgreementFailed, match="31 bytes"):
        open_secret(sealed(suite, b"s" * 31), keys=TWO[suite], transcript=TRANSCRIPT, sender=1, receiver=2)


def bad_points(suite: SuiteName) -> list[bytes]:
    """Low order or all zero in suite A; infinity, off the curve, compressed, hybrid or not reduced in suite F."""
    if suite == "A":
        return [bytes(32), b"\x01" + bytes(31), bytes(31), bytes(33), b""]
    good, prime = TWO["F"].exchange_public, 2**384 - 2**128 - 2**96 + 2**32 - 1
    return [
        b"",
        b"\0",
        bytes(97),
        b"\x04" + bytes(96),
        good[:-1] + bytes([good[-1] ^ 1]),
        bytes([2 + good[-1] % 2]) + good[1:49],
        bytes([6 + good[-1] % 2]) + good[1:],
        b"\x04" + prime.to_bytes(48, "big") + good[49:],
        good[:-1],
        good + b"\0",
    ]


def test_a_point_that_gives_no_secret_is_refused(suite: SuiteName) -> None:
    """A peer cannot force a known exchange, nor send a point off the curve."""
    for point in bad_points(suite):
        with pytest.raises(KeyAgreementFailed, match="no secret"):
            pair_key(b"s" * 32, keys=ONE[suite], peer_public=point, transcript=TRANSCRIPT, own=1, peer=2)


def test_a_malformed_kem_key_is_refused(suite: SuiteName) -> None:
    """Wrong length, lattice coefficients outside their range, a bad point, or the other suite's key."""
    other = TWO["F" if suite == "A" else "A"].kem_public
    lattice = TWO[suite].kem_public[: LATTICE_KEY_BYTES.of(suite)]
    bad = [b"", TWO[suite].kem_public[:-1], b"\xff" * KEM_KEY_BYTES.of(suite), other]
    if suite == "F":
        bad += [lattice + point for point in bad_points(suite)]

    for public in bad:
        with pytest.raises(WireError, match="malformed KEM key"):
            seal_secret(b"s" * 32, kem_public=public, transcript=TRANSCRIPT, sender=1, receiver=2, suite=suite)


def test_the_keys_of_one_suite_open_nothing_of_the_other(suite: SuiteName) -> None:
    """Neither by length nor by luck."""
    other = TWO["F" if suite == "A" else "A"]

    with pytest.raises(KeyAgreementFailed, match="does not open"):
        open_secret(sealed(suite), keys=other, transcript=TRANSCRIPT, sender=1, receiver=2)
    with pytest.raises(KeyAgreementFailed, match="no secret"):
        pair_key(b"s" * 32, keys=other, peer_public=ONE[suite].exchange_public, transcript=TRANSCRIPT, own=2, peer=1)


def test_private_keys_do_not_show(suite: SuiteName) -> None:
    """The repr of set-up keys names no bytes."""
    assert "b'" not in repr(ONE[suite])
