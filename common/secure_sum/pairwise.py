"""Secrets that two sites share and the coordinator between them does not.

Covers: a pair key is secret if the curve or ML-KEM holds, the bundles having been signed by the two sites; keys of
a past round cannot be computed from those of a later one.
Does not cover: signatures, which the callers check; erasure from memory, which Python cannot promise.

Each site brings two key pairs, one for the KEM and one for the plain exchange. The lower-numbered site of a pair
seals a random secret to the other with HPKE over a hybrid KEM; the exchange brings in randomness of both. Suite A has
X-Wing and X25519, suite F ML-KEM-1024 with P-384, and P-384.

Specification: PROTOCOL.md sections 2, 5 and 6.
Source: HPKE, RFC 9180; X-Wing, draft-connolly-cfrg-xwing-kem; MLKEM1024-P384, draft-ietf-hpke-pq; X25519, RFC 7748;
ECDH, SP 800-56A section 5.7.1.2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ec import ECDH, EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.mlkem import (
    MLKEM768PrivateKey,
    MLKEM768PublicKey,
    MLKEM1024PrivateKey,
    MLKEM1024PublicKey,
)
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import (
    AEAD,
    KDF,
    KEM,
    MLKEM768X25519PrivateKey,
    MLKEM768X25519PublicKey,
    MLKEM1024P384PrivateKey,
    MLKEM1024P384PublicKey,
    Suite,
)

from partsong.common.derive import derive, digest, extract, number
from partsong.common.errors import RoundAborted, WireError
from partsong.common.identity import p384
from partsong.common.identity.suite import LATTICE_KEY_BYTES, SuiteName
from partsong.common.secure_sum.shamir import Entropy

SECRET_BYTES = 32
MOST_ROUNDS_AT_ONCE = 64

_HPKE = {
    "A": Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM),
    "F": Suite(KEM.MLKEM1024_P384, KDF.HKDF_SHA384, AEAD.AES_256_GCM),
}


class KeyAgreementFailed(RoundAborted):
    """Two sites could not agree on a key; set-up ends without one."""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class SetupKeys:
    """The private keys of one site for one set-up; dropped when it ends."""

    suite: SuiteName
    exchange: X25519PrivateKey | EllipticCurvePrivateKey
    kem: MLKEM768X25519PrivateKey | MLKEM1024P384PrivateKey
    exchange_public: bytes
    kem_public: bytes


def make_setup_keys(entropy: Entropy, *, suite: SuiteName = "A") -> SetupKeys:
    """Make fresh keys.

    Args:
        entropy: secret uniform bytes, in production `os.urandom`.
        suite: of the charter.
    """
    return _make_keys_a(entropy) if suite == "A" else _make_keys_f(entropy)


def _make_keys_a(entropy: Entropy) -> SetupKeys:
    exchange = X25519PrivateKey.from_private_bytes(entropy(32))
    lattice, curve = MLKEM768PrivateKey.from_seed_bytes(entropy(64)), X25519PrivateKey.from_private_bytes(entropy(32))
    return SetupKeys(
        suite="A",
        exchange=exchange,
        kem=MLKEM768X25519PrivateKey(lattice, curve),
        exchange_public=exchange.public_key().public_bytes_raw(),
        kem_public=lattice.public_key().public_bytes_raw() + curve.public_key().public_bytes_raw(),
    )


def _make_keys_f(entropy: Entropy) -> SetupKeys:
    exchange = p384.private_key(p384.draw_scalar(entropy))
    lattice = MLKEM1024PrivateKey.from_seed_bytes(entropy(64))
    curve = p384.private_key(p384.draw_scalar(entropy))
    return SetupKeys(
        suite="F",
        exchange=exchange,
        kem=MLKEM1024P384PrivateKey(lattice, curve),
        exchange_public=p384.point_bytes(exchange.public_key()),
        kem_public=lattice.public_key().public_bytes_raw() + p384.point_bytes(curve.public_key()),
    )


def seal_secret(
    secret: bytes, *, kem_public: bytes, transcript: bytes, sender: int, receiver: int, suite: SuiteName = "A"
) -> bytes:
    """Seal a pair secret to `receiver`.

    Raises:
        WireError: the public key is malformed; nothing was sealed.
    """
    try:
        public = _kem_public(kem_public, suite)
    except ValueError as err:
        raise WireError(f"bundle of site {receiver}: found a malformed KEM key; nothing was sealed") from err
    return _HPKE[suite].encrypt(secret, public, _info(transcript, sender, receiver))


def _kem_public(data: bytes, suite: SuiteName) -> MLKEM768X25519PublicKey | MLKEM1024P384PublicKey:
    lattice, curve = data[: LATTICE_KEY_BYTES.of(suite)], data[LATTICE_KEY_BYTES.of(suite) :]
    if suite == "A":
        return MLKEM768X25519PublicKey(
            MLKEM768PublicKey.from_public_bytes(lattice), X25519PublicKey.from_public_bytes(curve)
        )
    return MLKEM1024P384PublicKey(MLKEM1024PublicKey.from_public_bytes(lattice), p384.read_point(curve))


def open_secret(sealed: bytes, *, keys: SetupKeys, transcript: bytes, sender: int, receiver: int) -> bytes:
    """Open what `seal_secret` made for this site.

    Raises:
        KeyAgreementFailed: it was made for another site, another set-up, or changed on the way.
    """
    try:
        secret = _HPKE[keys.suite].decrypt(sealed, keys.kem, _info(transcript, sender, receiver))
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
        peer_public: the other site's exchange key, 32 bytes in suite A, 97 in suite F.
        transcript: 32 bytes, hash of all bundles.
        own: number of this site.
        peer: number of the other site.
    Raises:
        KeyAgreementFailed: the other site's key is a point of low order or none of the curve; no key was agreed.
    """
    try:
        shared = _exchange(keys, peer_public)
    except ValueError as err:
        raise KeyAgreementFailed(f"site {peer}: its exchange key gives no secret; no key was agreed") from err
    parts = (number(min(own, peer)), number(max(own, peer)))
    return extract(shared + secret, salt=transcript, label="pair key", parts=parts)


def _exchange(keys: SetupKeys, peer_public: bytes) -> bytes:
    if isinstance(keys.exchange, X25519PrivateKey):
        return keys.exchange.exchange(X25519PublicKey.from_public_bytes(peer_public))
    return keys.exchange.exchange(ECDH(), p384.read_point(peer_public))


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
