"""Secrets beside the identity key, under the same passphrase: the key of a vault, the key of an authority.

Covers: as `keys`: a guess costs an Argon2id run (64 MiB, 3 passes); a changed file, one of another kind or of another
owner does not open.
Does not cover: a weak passphrase; a secret in the memory of a running process.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from partsong.common.build import build, canonical_json
from partsong.common.errors import ConfigError
from partsong.common.identity.keys import KeyFileError

_SALT_BYTES, _NONCE_BYTES, _LARGEST_SECRET = 16, 12, 4096

Kind = Literal["vault", "authority"]


@dataclass(frozen=True, kw_only=True, slots=True)
class WrappedSecret:
    """What stands in the file, as canonical JSON."""

    format: Literal["partsong-secret"] = "partsong-secret"
    version: Literal[1] = 1
    kind: Kind
    owner: str
    """Public identity key of whom it belongs to, in lower-case hex."""
    kdf: Literal["argon2id"] = "argon2id"
    memory_kib: Literal[65536] = 65536
    iterations: Literal[3] = 3
    lanes: Literal[4] = 4
    """The three numbers are the second recommendation of RFC 9106 section 4."""
    salt: str
    nonce: str
    ciphertext: str

    def header(self) -> bytes:
        """Everything but the ciphertext, which authenticates it."""
        return canonical_json(replace(self, ciphertext=""))


def wrap(secret: bytes, *, kind: Kind, owner: bytes, passphrase: bytes, entropy: Callable[[int], bytes]) -> bytes:
    """Make the bytes of a file that gives `secret` back to who knows the passphrase.

    Args:
        secret: 1 to 4096 bytes.
        kind: what it is for.
        owner: public identity key.
        passphrase: not empty.
        entropy: uniform bytes, in production `os.urandom`.
    Source: Argon2id, RFC 9106; AES-256-GCM, NIST SP 800-38D.
    """
    blank = WrappedSecret(
        kind=kind,
        owner=owner.hex(),
        salt=entropy(_SALT_BYTES).hex(),
        nonce=entropy(_NONCE_BYTES).hex(),
        ciphertext="",
    )
    sealed = _cipher(blank, passphrase).encrypt(bytes.fromhex(blank.nonce), secret, blank.header())
    return canonical_json(replace(blank, ciphertext=sealed.hex()))


def unwrap(data: bytes, *, kind: Kind, owner: bytes, passphrase: bytes) -> bytes:
    """Open such a file.

    Raises:
        KeyFileError: it is of another format, kind or owner, was changed, or the passphrase is another one; nothing
            was opened.
    """
    place = f"{kind} key file"
    try:
        file = build(WrappedSecret, json.loads(data), where=place)
        sizes = [len(bytes.fromhex(part)) for part in (file.salt, file.nonce, file.ciphertext)]
    except (ConfigError, ValueError, RecursionError) as err:
        raise KeyFileError(place, found="another format", expected="partsong-secret version 1") from err
    if sizes[:2] != [_SALT_BYTES, _NONCE_BYTES] or sizes[2] > 2 * _LARGEST_SECRET or canonical_json(file) != data:
        raise KeyFileError(place, found="a form that is not canonical", expected="the bytes that were written")
    if (file.kind, file.owner) != (kind, owner.hex()):
        raise KeyFileError(place, found="a key of another kind or owner", expected=f"the {kind} key of this directory")
    try:
        return _cipher(file, passphrase).decrypt(
            bytes.fromhex(file.nonce), bytes.fromhex(file.ciphertext), file.header()
        )
    except InvalidTag as err:
        raise KeyFileError(
            place, found="a passphrase that does not open it, or changed bytes", expected="the right passphrase"
        ) from err


def _cipher(file: WrappedSecret, passphrase: bytes) -> AESGCM:
    kdf = Argon2id(
        salt=bytes.fromhex(file.salt),
        length=32,
        iterations=file.iterations,
        lanes=file.lanes,
        memory_cost=file.memory_kib,
    )
    return AESGCM(kdf.derive(passphrase))
