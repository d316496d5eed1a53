"""Hashes and keys, each use under its own label.

Every hash input and every key derivation is a label followed by framed parts, so no two uses of one key or hash
can collide. Specification: PROTOCOL.md section 2.
"""

from __future__ import annotations

import hashlib

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand

VERSION = "partsong/1"
KEY_BYTES = 32


def frame(*parts: bytes) -> bytes:
    """Join parts so that the border between them cannot move: each after its length in 8 bytes, big-endian."""
    return b"".join(len(part).to_bytes(8, "big") + part for part in parts)


def number(value: int) -> bytes:
    """Encode a site's number or a count: 4 bytes, big-endian."""
    return value.to_bytes(4, "big")


def digest(label: str, *parts: bytes) -> bytes:
    """Hash framed parts under a label with SHA-256.

    Guarantees:
        - different labels or different parts give different inputs to the hash.
    """
    return hashlib.sha256(frame(f"{VERSION} {label}".encode(), *parts)).digest()


def derive(key: bytes, label: str, *parts: bytes) -> bytes:
    """Derive a 32-byte key for one use from a uniform key.

    Args:
        key: 32 uniform secret bytes.
        label: names the use; no other use has it.
        parts: public values that make this derivation unique.
    Source: HKDF-Expand, RFC 5869 section 2.3, with `digest(label, parts)` as info.
    """
    return HKDFExpand(SHA256(), KEY_BYTES, digest(label, *parts)).derive(key)


def extract(secret: bytes, *, salt: bytes, label: str, parts: tuple[bytes, ...]) -> bytes:
    """Derive a 32-byte key from secrets that need not be uniform.

    Source: HKDF, RFC 5869, with `digest(label, parts)` as info.
    """
    return HKDF(SHA256(), KEY_BYTES, salt, digest(label, *parts)).derive(secret)
