"""P-384 as fixed-size bytes: scalars, points and signatures with one accepted form each.

Covers: a point is 97 bytes, uncompressed and on the curve; a signature is 96 bytes, r and s, with s in the lower half
of its range, so that nobody can turn one accepted signature into another.
Does not cover: the signer itself, who can always make a second signature with another nonce; nothing is hashed or
compared by its signature where that would matter. The time that Python's integers take where a scalar is drawn or
written, once for each key; signing and exchange are the library's.

Specification: PROTOCOL.md section 2.
Source: FIPS 186-5 sections 6.4 and A.2.2, SP 800-186 section 3.2.1.4, SEC 1 section 2.3, RFC 6979.
"""

from __future__ import annotations

from collections.abc import Callable

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDSA,
    SECP384R1,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
    derive_private_key,
)
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from partsong.common.identity.suite import POINT_BYTES, SECRET_KEY_BYTES, SIGNATURE_BYTES

ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973
_UNCOMPRESSED = 4
_SCALAR_BYTES = SECRET_KEY_BYTES.F


def draw_scalar(entropy: Callable[[int], bytes]) -> bytes:
    """Draw a secret scalar, uniform in [1, order - 1]: 48 bytes, big-endian.

    Source: FIPS 186-5 section A.2.2, rejection sampling; a rejection has probability 2^-194.
    """
    while (drawn := int.from_bytes(entropy(_SCALAR_BYTES), "big")) > ORDER - 2:
        pass
    return (drawn + 1).to_bytes(_SCALAR_BYTES, "big")


def private_key(scalar: bytes) -> EllipticCurvePrivateKey:
    """Read a secret scalar.

    Raises:
        ValueError: not 48 bytes, 0, or not below the order; there is no such key.
    """
    if len(scalar) != _SCALAR_BYTES:
        raise ValueError(f"a scalar of {_SCALAR_BYTES} bytes, not {len(scalar)}")
    return derive_private_key(int.from_bytes(scalar, "big"), SECP384R1())


def scalar_bytes(key: EllipticCurvePrivateKey) -> bytes:
    """Give the 48 secret bytes that `private_key` reads."""
    return key.private_numbers().private_value.to_bytes(_SCALAR_BYTES, "big")


def point_bytes(key: EllipticCurvePublicKey) -> bytes:
    """Encode a public key: 97 bytes."""
    return key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


def read_point(data: bytes) -> EllipticCurvePublicKey:
    """Read a public key.

    Guarantees:
        - `point_bytes` of the result is `data`.
    Raises:
        ValueError: another length or form, a coordinate that is not reduced, or not on the curve.
    """
    if len(data) != POINT_BYTES or data[0] != _UNCOMPRESSED:
        raise ValueError(f"an uncompressed point of {POINT_BYTES} bytes")
    return EllipticCurvePublicKey.from_encoded_point(SECP384R1(), data)


def sign(key: EllipticCurvePrivateKey, message: bytes) -> bytes:
    """Sign, giving 96 bytes; equal messages give equal signatures.

    Source: ECDSA with SHA-384, FIPS 186-5 section 6.4; the nonce is that of RFC 6979.
    """
    return signature_from_der(key.sign(message, ECDSA(SHA384(), deterministic_signing=True)))


def signature_from_der(der: bytes) -> bytes:
    """Give the one accepted form of an ECDSA signature in DER, for keys that sign in another device.

    Raises:
        ValueError: not a DER signature with r and s between 1 and the order.
    """
    r, s = decode_dss_signature(der)
    if not (0 < r < ORDER and 0 < s < ORDER):
        raise ValueError("a signature whose numbers are out of range")
    return r.to_bytes(_SCALAR_BYTES, "big") + min(s, ORDER - s).to_bytes(_SCALAR_BYTES, "big")


def signature_fits(public_key: bytes, signature: bytes, message: bytes) -> bool:
    """Say whether `signature` is that of `message`, in its one accepted form."""
    if len(signature) != SIGNATURE_BYTES.F:
        return False
    r, s = (int.from_bytes(half, "big") for half in (signature[:_SCALAR_BYTES], signature[_SCALAR_BYTES:]))
    if s > ORDER // 2:
        return False
    try:
        read_point(public_key).verify(encode_dss_signature(r, s), message, ECDSA(SHA384()))
    except (InvalidSignature, ValueError):
        return False
    return True
