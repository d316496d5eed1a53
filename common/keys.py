"""Identity keys: made at the site, kept under a passphrase, used for signing only.

Covers: a stolen key file costs an attacker one Argon2id run (64 MiB, 3 passes) per guess; a changed one does not
open. Signing through `Signer` works as well with a key that never leaves an HSM or a KMS.
Does not cover: a weak passphrase, a key in the memory of a running process, and loss: a lost key is replaced by a
new charter version, see PROTOCOL.md section 3.

PKCS#8's own passphrase encryption is not used: the library writes it with 2048 rounds of PBKDF2.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from partsong.common.build import build, canonical_json
from partsong.common.errors import ConfigError, InputError

PUBLIC_KEY_BYTES = 32
SIGNATURE_BYTES = 64
_SALT_BYTES, _NONCE_BYTES = 16, 12


class KeyFileError(InputError):
    """A key file cannot be opened; no key was loaded."""


class Signer(Protocol):
    """Whatever can sign with an identity key."""

    @property
    def public_key(self) -> bytes:
        """32 bytes of an Ed25519 public key."""

    def sign(self, message: bytes) -> bytes:
        """Sign, giving 64 bytes."""


class Identity:
    """An Ed25519 key in memory."""

    def __init__(self, seed: bytes) -> None:
        """Take the 32 secret bytes of RFC 8032 section 5.1.5."""
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        self._public = self._key.public_key().public_bytes_raw()

    @classmethod
    def generate(cls, entropy: Callable[[int], bytes]) -> Identity:
        """Make a new key from secret uniform bytes, in production `os.urandom`."""
        return cls(entropy(PUBLIC_KEY_BYTES))

    @property
    def public_key(self) -> bytes:
        """32 bytes of the public key."""
        return self._public

    def sign(self, message: bytes) -> bytes:
        """Sign as in RFC 8032; equal messages give equal signatures."""
        return self._key.sign(message)

    def secret_bytes(self) -> bytes:
        """Give the 32 secret bytes, for `lock` alone."""
        return self._key.private_bytes_raw()

    def __repr__(self) -> str:
        return f"Identity({fingerprint(self._public)})"


def signature_fits(public_key: bytes, signature: bytes, message: bytes) -> bool:
    """Say whether `signature` is that of `message` under an Ed25519 public key."""
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def fingerprint(public_key: bytes) -> str:
    """Make the text that two people compare: 160 bits of a SHA-256 in eight groups of four letters and digits."""
    short = hashlib.sha256(b"partsong/1 fingerprint" + public_key).digest()[:20]
    text = base64.b32encode(short).decode().lower()
    return " ".join(text[i : i + 4] for i in range(0, len(text), 4))


@dataclass(frozen=True, kw_only=True, slots=True)
class KeyFile:
    """What stands in a key file, as canonical JSON."""

    format: Literal["partsong-identity"] = "partsong-identity"
    version: Literal[1] = 1
    public_key: str
    kdf: Literal["argon2id"] = "argon2id"
    memory_kib: int = 65536
    iterations: int = 3
    lanes: int = 4
    """The three numbers are the second recommendation of RFC 9106 section 4."""
    salt: str
    nonce: str
    ciphertext: str

    def __post_init__(self) -> None:
        # Upper bounds keep a planted file from taking all memory, lower ones from being a fast target.
        for name, low, high in (("memory_kib", 19456, 1 << 20), ("iterations", 1, 16), ("lanes", 1, 16)):
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} between {low} and {high}, not {getattr(self, name)}")
        sizes = {"public_key": 32, "salt": _SALT_BYTES, "nonce": _NONCE_BYTES, "ciphertext": 48}
        for name, size in sizes.items():
            value = getattr(self, name)
            if len(value) != 2 * size or set(value) - set("0123456789abcdef"):
                raise ValueError(f"{name} of {size} bytes in lower-case hex")

    def header(self) -> bytes:
        """Everything but the ciphertext, which authenticates it."""
        return canonical_json(replace(self, ciphertext="0" * 96))


def lock(identity: Identity, *, passphrase: bytes, entropy: Callable[[int], bytes]) -> bytes:
    """Make the bytes of a key file.

    Args:
        identity: the key.
        passphrase: not empty.
        entropy: uniform bytes, in production `os.urandom`.
    Raises:
        KeyFileError: the passphrase is empty; nothing was made.
    Source: Argon2id, RFC 9106; AES-256-GCM, NIST SP 800-38D.
    """
    if not passphrase:
        raise KeyFileError("passphrase", found="nothing", expected="at least one byte")
    salt, nonce = entropy(_SALT_BYTES).hex(), entropy(_NONCE_BYTES).hex()
    plain = KeyFile(public_key=identity.public_key.hex(), salt=salt, nonce=nonce, ciphertext="0" * 96)
    sealed = _cipher(plain, passphrase).encrypt(bytes.fromhex(nonce), identity.secret_bytes(), plain.header())
    return canonical_json(replace(plain, ciphertext=sealed.hex()))


def unlock(data: bytes, *, passphrase: bytes) -> Identity:
    """Open a key file.

    Raises:
        KeyFileError: not a key file of this version, not in its one canonical form, changed, or another passphrase;
            no key was loaded.
    """
    try:
        file = build(KeyFile, json.loads(data), where="key file")
    except (ConfigError, ValueError, RecursionError) as err:
        raise KeyFileError("key file", found="another format", expected="partsong-identity version 1") from err
    if canonical_json(file) != data:
        raise KeyFileError("key file", found="a form that is not canonical", expected="the bytes that were written")
    try:
        seed = _cipher(file, passphrase).decrypt(
            bytes.fromhex(file.nonce), bytes.fromhex(file.ciphertext), file.header()
        )
    except InvalidTag as err:
        raise KeyFileError(
            "key file", found="a passphrase that does not open it, or changed bytes", expected="the right passphrase"
        ) from err
    identity = Identity(seed)
    if identity.public_key.hex() != file.public_key:
        raise KeyFileError("key file", found="a public key that is not its own", expected="a matching pair")
    return identity


def _cipher(file: KeyFile, passphrase: bytes) -> AESGCM:
    kdf = Argon2id(
        salt=bytes.fromhex(file.salt),
        length=32,
        iterations=file.iterations,
        lanes=file.lanes,
        memory_cost=file.memory_kib,
    )
    return AESGCM(kdf.derive(passphrase))
