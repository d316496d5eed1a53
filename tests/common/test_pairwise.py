"""Pair keys: equal at both ends, bound to their place, and one-way over rounds."""

import os

import pytest
from cryptography.hazmat.bindings._rust import openssl as rust_openssl
from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from hypothesis import given, settings
from hypothesis import strategies as st

from partsong.common.derive import derive
from partsong.common.errors import RoundAborted, WireError
from partsong.common.pairwise import (
    KEM_KEY_BYTES,
    SEALED_BYTES,
    KeyAgreementFailed,
    advance,
    make_setup_keys,
    open_secret,
    pair_key,
    seal_secret,
)

TRANSCRIPT = bytes(32)
ONE, TWO = make_setup_keys(os.urandom), make_setup_keys(os.urandom)


def sealed(secret: bytes = b"s" * 32) -> bytes:
    return seal_secret(secret, kem_public=TWO.kem_public, transcript=TRANSCRIPT, sender=1, receiver=2)


def test_the_exchange_is_that_of_rfc_7748() -> None:
    """Section 6.1."""
    alice = X25519PrivateKey.from_private_bytes(
        bytes.fromhex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a")
    )
    bob = X25519PrivateKey.from_private_bytes(
        bytes.fromhex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb")
    )

    assert alice.public_key().public_bytes_raw().hex() == (
        "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"
    )
    assert alice.exchange(X25519PublicKey.from_public_bytes(bob.public_key().public_bytes_raw())).hex() == (
        "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742"
    )


def test_hpke_opens_the_message_of_rfc_9180() -> None:
    """Appendix A.1.1, base mode, sequence number 0: the library's function with associated data is a private one."""
    suite = hpke.Suite(hpke.KEM.X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_128_GCM)
    receiver = X25519PrivateKey.from_private_bytes(
        bytes.fromhex("4612c550263fc8ad58375df3f557aac531d26850903e55a9f23f21d8534e8ac8")
    )
    sealed_message = bytes.fromhex(
        "37fda3567bdbd628e88668c3c8d7e97d1d1253b6d4ea6d44c150f741f1bf4431"
        "f938558b5d72f1a23810b4be2ab4f84331acc02fc97babc53a52ae8218a355a96d8770ac83d07bea87e13c512a"
    )

    opened = rust_openssl.hpke._decrypt_with_aad(suite, sealed_message, receiver, b"Ode on a Grecian Urn", b"Count-0")

    assert opened == b"Beauty is truth, truth beauty"


def test_both_sites_get_the_same_key() -> None:
    """Whoever computes it, and another key for another transcript, secret or pair."""

    def both(transcript: bytes = TRANSCRIPT, secret: bytes = b"s" * 32, peer: int = 2) -> tuple[bytes, bytes]:
        one = pair_key(secret, keys=ONE, peer_public=TWO.exchange_public, transcript=transcript, own=1, peer=peer)
        two = pair_key(secret, keys=TWO, peer_public=ONE.exchange_public, transcript=transcript, own=peer, peer=1)
        return one, two

    keys = [both(), both(transcript=b"t" * 32), both(secret=b"x" * 32), both(peer=3)]

    assert all(one == two for one, two in keys)
    assert len({one for one, _ in keys}) == 4


def test_a_sealed_secret_opens_at_its_receiver() -> None:
    """And has the size that the format says."""
    assert len(TWO.kem_public) == KEM_KEY_BYTES
    assert len(sealed()) == SEALED_BYTES
    assert open_secret(sealed(), keys=TWO, transcript=TRANSCRIPT, sender=1, receiver=2) == b"s" * 32


@pytest.mark.parametrize(
    "change", [{"keys": ONE}, {"transcript": b"t" * 32}, {"sender": 3}, {"receiver": 3}, {"sender": 2, "receiver": 1}]
)
def test_it_opens_nowhere_else(change: dict[str, object]) -> None:
    """Not at another site, in another set-up or as another pair's."""
    with pytest.raises(KeyAgreementFailed, match="no key was agreed"):
        open_secret(sealed(), **({"keys": TWO, "transcript": TRANSCRIPT, "sender": 1, "receiver": 2} | change))


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 8 * SEALED_BYTES - 1))
def test_a_changed_bit_does_not_open(bit: int) -> None:
    """Anywhere in lattice part, curve part, secret or tag."""
    changed = bytearray(sealed())
    changed[bit // 8] ^= 1 << bit % 8

    with pytest.raises(KeyAgreementFailed):
        open_secret(bytes(changed), keys=TWO, transcript=TRANSCRIPT, sender=1, receiver=2)


@pytest.mark.parametrize("size", [0, 31, 1119, SEALED_BYTES - 1, SEALED_BYTES + 1])
def test_another_length_does_not_open(size: int) -> None:
    """Short and long messages end like changed ones."""
    with pytest.raises(KeyAgreementFailed):
        open_secret((sealed() + b"x")[:size], keys=TWO, transcript=TRANSCRIPT, sender=1, receiver=2)


def test_a_secret_of_another_length_is_refused() -> None:
    """The sender cannot choose a short secret."""
    with pytest.raises(KeyAgreementFailed, match="31 bytes"):
        open_secret(sealed(b"s" * 31), keys=TWO, transcript=TRANSCRIPT, sender=1, receiver=2)


@pytest.mark.parametrize("point", [bytes(32), b"\x01" + bytes(31)])
def test_a_point_of_low_order_gives_no_key(point: bytes) -> None:
    """A peer cannot force a known exchange."""
    with pytest.raises(KeyAgreementFailed, match="no secret"):
        pair_key(b"s" * 32, keys=ONE, peer_public=point, transcript=TRANSCRIPT, own=1, peer=2)


@pytest.mark.parametrize("public", [b"", bytes(KEM_KEY_BYTES - 1), b"\xff" * KEM_KEY_BYTES])
def test_a_malformed_kem_key_is_refused(public: bytes) -> None:
    """Wrong length, or lattice coefficients outside their range."""
    with pytest.raises(WireError, match="malformed KEM key"):
        seal_secret(b"s" * 32, kem_public=public, transcript=TRANSCRIPT, sender=1, receiver=2)


@given(st.integers(0, 64), st.integers(0, 64))
def test_rounds_can_be_skipped_and_end_at_the_same_key(one: int, two: int) -> None:
    """A site that missed rounds meets the others again."""
    keys = {1: b"a" * 32, 5: b"b" * 32}

    if one + two <= 64:
        assert advance(advance(keys, rounds=one), rounds=two) == advance(keys, rounds=one + two)
    assert advance(keys, rounds=0) == keys
    assert advance(keys, rounds=1)[5] == derive(b"b" * 32, "ratchet")


@pytest.mark.parametrize("rounds", [-1, 65, 10**9])
def test_steps_back_and_leaps_are_refused(rounds: int) -> None:
    """At most 64 rounds at once, never backwards."""
    with pytest.raises(RoundAborted, match="the keys stay"):
        advance({1: b"a" * 32}, rounds=rounds)


def test_private_keys_do_not_show() -> None:
    """The repr of set-up keys names no bytes."""
    assert "b'" not in repr(ONE)
