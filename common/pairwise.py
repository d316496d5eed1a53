"""Secrets that two sites share and the coordinator between them does not.

Covers: a pair key is secret if X25519 or ML-KEM-768 holds, the bundles having been signed by the two sites; keys of
a past round cannot be computed from those of a later one.
Does not cover: signatures, which the callers check; erasure from memory, which Python cannot promise.

Each site brings two key pairs, one for the KEM and one for the plain exchange. The lower-numbered site of a pair
seals a random secret to the other with HPKE over X-Wing; the exchange brings in randomness of both.

Specification: PROTOCOL.md sections 5 and 6.
Source: HPKE, RFC 9180; X-Wing, draft-connolly-cfrg-xwing-kem; X25519, RFC 7748.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import (
    AEAD,
    KDF,
    KEM,
    MLKEM768X25519PrivateKey,
    MLKEM768X25519PublicKey,
    Suite,
)

from partsong.common.derive import derive, digest, extract, number
from partsong.common.errors import RoundAborted, WireError
from partsong.common.shamir import Entropy

DH_KEY_BYTES = 32
_MLKEM_KEY_BYTES = 1184
KEM_KEY_BYTES = _MLKEM_KEY_BYTES + 32
SECRET_BYTES = 32
# 1120 bytes of X-Wing, the secret, and 16 bytes of tag.
SEALED_BYTES = 1120 + SECRET_BYTES + 16
MOST_ROUNDS_AT_ONCE = 64

_SUITE = Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


class KeyAgreementFailed(RoundAborted):
    """Two sites could not agree on a key; set-up ends without one."""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class SetupKeys:
    """The private keys of one site for one set-up; dropped when it ends."""

    exchange: X25519PrivateKey
    kem: MLKEM768X25519PrivateKey
    exchange_public: bytes
    kem_public: bytes


def make_setup_keys(entropy: Entropy) -> SetupKeys:
    """Make fresh keys.

    Args:
        entropy: secret uniform bytes, in production `os.urandom`.
    """
    exchange = X25519PrivateKey.from_private_bytes(entropy(32))
    lattice, curve = MLKEM768PrivateKey.from_seed_bytes(entropy(64)), X25519PrivateKey.from_private_bytes(entropy(32))
    return SetupKeys(
        exchange=exchange,
        kem=MLKEM768X25519PrivateKey(lattice, curve),
        exchange_public=exchange.public_key().public_bytes_raw(),
        kem_public=lattice.public_key().public_bytes_raw() + curve.public_key().public_bytes_raw(),
    )


def seal_secret(secret: bytes, *, kem_public: bytes, transcript: bytes, sender: int, receiver: int) -> bytes:
    """Seal a pair secret to `receiver`.

    Raises:
        WireError: the public key is malformed; nothing was sealed.
    """
    try:
        lattice = MLKEM768PublicKey.from_public_bytes(kem_public[:_MLKEM_KEY_BYTES])
        curve = X25519PublicKey.from_public_bytes(kem_public[_MLKEM_KEY_BYTES:])
    except ValueError as err:
        raise WireError(f"bundle of site {receiver}: found a malformed KEM key; nothing was sealed") from err
    public = MLKEM768X25519PublicKey(lattice, curve)
    return _SUITE.encrypt(secret, public, _info(transcript, sender, receiver))


def open_secret(sealed: bytes, *, keys: SetupKeys, transcript: bytes, sender: int, receiver: int) -> bytes:
    """Open what `seal_secret` made for this site.

    Raises:
        KeyAgreementFailed: it was made for another site, another set-up, or changed on the way.
    """
    try:
        secret = _SUITE.decrypt(sealed, keys.kem, _info(transcript, sender, receiver))
    except (InvalidTag, ValueError) as err:
        raise KeyAgreementFailed(f"site {sender}: its sealed secret does not open; no key was agreed") from err
    if len(secret) != SECRET_BYTES:
        raise KeyAgreementFailed(f"site {sender}: its secret has {len(secret)} bytes; no key was agreed")
    return secret


def pair_key(secret: bytes, *, keys: SetupKeys, peer_public: bytes, transcript: bytes, own: int, peer: int) -> bytes:
    """Combine the sealed secret and the exchange into the key that both sites hold.

    Args:
        secret: that the lower-numbered site drew.
        keys: of this site.
        peer_public: 32 bytes, the other site's exchange key.
        transcript: 32 bytes, hash of all bundles.
        own: number of this site.
        peer: number of the other site.
    Raises:
        KeyAgreementFailed: the other site's key is a point of low order; no key was agreed.
    """
    try:
        shared = keys.exchange.exchange(X25519PublicKey.from_public_bytes(peer_public))
    except ValueError as err:
        raise KeyAgreementFailed(f"site {peer}: its exchange key gives no secret; no key was agreed") from err
    parts = (number(min(own, peer)), number(max(own, peer)))
    return extract(shared + secret, salt=transcript, label="pair key", parts=parts)


def advance(pair_keys: Mapping[int, bytes], *, rounds: int) -> dict[int, bytes]:
    """Move all pair keys `rounds` rounds ahead; the old ones are to be erased.

    Raises:
        RoundAborted: more than 64 rounds at once, or backwards; the keys stay.
    """
    if not 0 <= rounds <= MOST_ROUNDS_AT_ONCE:
        raise RoundAborted(f"found a step of {rounds} rounds, expected 0 to {MOST_ROUNDS_AT_ONCE}; the keys stay")
    moved = dict(pair_keys)
    for _ in range(rounds):
        moved = {peer: derive(key, "ratchet") for peer, key in moved.items()}
    return moved


def _info(transcript: bytes, sender: int, receiver: int) -> bytes:
    return digest("pair secret", transcript, number(sender), number(receiver))
