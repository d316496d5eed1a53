"""The two suites of algorithms, by name and by size.

Which of them a consortium uses stands in its charter. Nothing negotiates: every key that the charter lists has the
length that its suite fixes, so a message of the other suite fails where its signature is checked.

    A   X-Wing, X25519, Ed25519, HKDF-SHA256, AES-256, SHA-256
    F   ML-KEM-1024 with P-384, ECDH and ECDSA on P-384 with SHA-384, HKDF-SHA256, AES-256, SHA-256:
        approved algorithms alone, for sites that are bound to them

Specification: PROTOCOL.md section 2.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

SuiteName = Literal["A", "F"]
SUITES: tuple[SuiteName, ...] = get_args(SuiteName)


class BySuite(NamedTuple):
    """A size in bytes for each suite."""

    A: int
    F: int

    def of(self, suite: SuiteName) -> int:
        """Give the size in `suite`."""
        return self.A if suite == "A" else self.F

    def suite_of(self, size: int) -> SuiteName | None:
        """Give the suite in which this is the size, or None."""
        return SUITES[self.index(size)] if size in self else None


POINT_BYTES = 97
"""A point of P-384: 4, then both coordinates, 48 bytes each."""

SECRET_KEY_BYTES = BySuite(A=32, F=48)
PUBLIC_KEY_BYTES = BySuite(A=32, F=POINT_BYTES)
SIGNATURE_BYTES = BySuite(A=64, F=96)
EXCHANGE_KEY_BYTES = BySuite(A=32, F=POINT_BYTES)
LATTICE_KEY_BYTES = BySuite(A=1184, F=1568)
KEM_KEY_BYTES = BySuite(A=1184 + 32, F=1568 + POINT_BYTES)
"""The lattice key, then that of the curve."""
SEALED_BYTES = BySuite(A=1120 + 32 + 16, F=1568 + POINT_BYTES + 32 + 16)
"""What the KEM sends, 32 secret bytes, and 16 bytes of tag."""


def suite_of_key(public_key: bytes) -> SuiteName | None:
    """Give the suite that an identity key belongs to, by its length; None if it belongs to none."""
    return PUBLIC_KEY_BYTES.suite_of(len(public_key))
