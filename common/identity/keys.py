"""Identity keys: made at the site, kept under a passphrase, used for signing only.

Covers: a stolen key file costs an attacker one Argon2id run (64 MiB, 3 passes) per guess; a changed one does not
open. Signing through `Signer` works as well with a key that never leaves an HSM or a KMS.
Does not cover: a weak passphrase, a key in the memory of a running process, and loss: a lost key is replaced by a
new charter version, see PROTOCOL.md section 3.

PKCS#8's own passphrase encryption is not used: the library writes it with 2048 rounds of PBKDF2.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from partsong.common.build import build, canonical_json
from partsong.common.errors import ConfigError, InputError
from partsong.common.identity import p384
from partsong.common.identity.suite import PUBLIC_KEY_BYTES, SECRET_KEY_BYTES, SuiteName, suite_of_key

_SALT_BYTES, _NONCE_BYTES, _TAG_BYTES = 16, 12, 16


class KeyFileError(InputError):
    """A key file cannot be opened; no key was loaded."""


class Signer(Protocol):
    """Whatever can sign with an identity key."""

    @property
    def public_key(self) -> bytes:
        """32 bytes of an Ed25519 key, or the 97 of a P-384 point; the length tells the suite."""

    def sign(self, message: bytes) -> bytes:
        """Sign, giving 64 bytes for Ed25519; for P-384 the 96 bytes that `p384.signature_from_der` makes."""


class Identity:
    """An Ed25519 key in memory: suite A."""

    def __init__(self, seed: bytes) -> None:
        """Take the 32 secret bytes of RFC 8032 section 5.1.5."""
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        self._public = self._key.public_key().public_bytes_raw()

    @classmethod
    def generate(cls, entropy: Callable[[int], bytes]) -> Identity:
        """Make a new key from secret uniform bytes, in production `os.urandom`."""
        return cls(entropy(SECRET_KEY_BYTES.A))

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


class P384Identity:
    """A P-384 key in memory: suite F."""

    def __init__(self, scalar: bytes) -> None:
        """Take 48 secret bytes, a big-endian number from 1 to below the order of the curve."""
        self._key = p384.private_key(scalar)
        self._public = p384.point_bytes(self._key.public_key())

    @classmethod
    def generate(cls, entropy: Callable[[int], bytes]) -> P384Identity:
        """Make a new key from secret uniform bytes, in production `os.urandom`."""
        return cls(p384.draw_scalar(entropy))

    @property
    def public_key(self) -> bytes:
        """97 bytes of the public key."""
        return self._public

    def sign(self, message: bytes) -> bytes:
        """Sign as in RFC 6979 with SHA-384; equal messages give equal signatures."""
        return p384.sign(self._key, message)

    def secret_bytes(self) -> bytes:
        """Give the 48 secret bytes, for `lock` alone."""
        return p384.scalar_bytes(self._key)

    def __repr__(self) -> str:
        return f"P384Identity({fingerprint(self._public)})"


def make_identity(suite: SuiteName, entropy: Callable[[int], bytes]) -> Identity | P384Identity:
    """Make a new identity key of a suite from secret uniform bytes, in production `os.urandom`."""
    return Identity.generate(entropy) if suite == "A" else P384Identity.generate(entropy)


def signature_fits(public_key: bytes, signature: bytes, message: bytes) -> bool:
    """Say whether `signature` is that of `message` under an identity key.

    The key's length decides how it is checked. The keys come from the charter, so a signature has no say in that.
    """
    return _checks[-1](public_key, signature, message)


def _fits(public_key: bytes, signature: bytes, message: bytes) -> bool:
    if suite_of_key(public_key) == "F":
        return p384.signature_fits(public_key, signature, message)
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


_checks: list[Callable[[bytes, bytes, bytes], bool]] = [_fits]
"""The last one is in use."""


@contextlib.contextmanager
def verified_once(*, most: int = 16_384) -> Iterator[None]:
    """Let this process compute the check of an identical signature once, for simulations of many sites.

    Guarantees: `signature_fits` says the same as without; key, signature and message all have to be equal.
    Args:
        most: checks whose result is remembered.
    """
    _checks.append(functools.lru_cache(maxsize=most)(_fits))
    try:
        yield
    finally:
        _checks.pop()


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
        suite = PUBLIC_KEY_BYTES.suite_of(len(self.public_key) // 2)
        if suite is None:
            raise ValueError("public_key of 32 or 97 bytes in lower-case hex")
        sizes = {"public_key": PUBLIC_KEY_BYTES.of(suite), "salt": _SALT_BYTES, "nonce": _NONCE_BYTES}
        for name, size in (sizes | {"ciphertext": SECRET_KEY_BYTES.of(suite) + _TAG_BYTES}).items():
            value = getattr(self, name)
            if len(value) != 2 * size or set(value) - set("0123456789abcdef"):
                raise ValueError(f"{name} of {size} bytes in lower-case hex")

    def header(self) -> bytes:
        """Everything but the ciphertext, which authenticates it."""
        return canonical_json(replace(self, ciphertext="0" * len(self.ciphertext)))


def lock(identity: Identity | P384Identity, *, passphrase: bytes, entropy: Callable[[int], bytes]) -> bytes:
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
    salt, nonce, secret = entropy(_SALT_BYTES).hex(), entropy(_NONCE_BYTES).hex(), identity.secret_bytes()
    blank = bytes(len(secret) + _TAG_BYTES).hex()
    plain = KeyFile(public_key=identity.public_key.hex(), salt=salt, nonce=nonce, ciphertext=blank)
    sealed = _cipher(plain, passphrase).encrypt(bytes.fromhex(nonce), secret, plain.header())
    return canonical_json(replace(plain, ciphertext=sealed.hex()))


def unlock(data: bytes, *, passphrase: bytes) -> Identity | P384Identity:
    """Open a key file.

    Raises:
        KeyFileError: not a key file of this version, not in its one canonical form, changed, or another passphrase;
            no key was loaded.
    """
    file = _read(data)
    try:
        secret = _cipher(file, passphrase).decrypt(
            bytes.fromhex(file.nonce), bytes.fromhex(file.ciphertext), file.header()
        )
    except InvalidTag as err:
        raise KeyFileError(
            "key file", found="a passphrase that does not open it, or changed bytes", expected="the right passphrase"
        ) from err
    return _checked(secret, public_key=file.public_key)


def public_key_of_file(data: bytes) -> bytes:
    """Give the public key that a key file names, without its passphrase; only `unlock` proves that it is its own.

    Raises:
        KeyFileError: not a key file of this version, or not in its one canonical form.
    """
    return bytes.fromhex(_read(data).public_key)


def _read(data: bytes) -> KeyFile:
    try:
        file = build(KeyFile, json.loads(data), where="key file")
    except (ConfigError, ValueError, RecursionError) as err:
        raise KeyFileError("key file", found="another format", expected="partsong-identity version 1") from err
    if canonical_json(file) != data:
        raise KeyFileError("key file", found="a form that is not canonical", expected="the bytes that were written")
    return file


def _checked(secret: bytes, *, public_key: str) -> Identity | P384Identity:
    foreign = KeyFileError("key file", found="a public key that is not its own", expected="a matching pair")
    try:
        identity = Identity(secret) if len(secret) == SECRET_KEY_BYTES.A else P384Identity(secret)
    except ValueError as err:
        raise foreign from err
    if identity.public_key.hex() != public_key:
        raise foreign
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
