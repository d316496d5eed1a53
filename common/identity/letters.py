"""Files that go between a site and the coordinator while people make a consortium.

    invitation    coordinator -> site    who asks, where it is, which key it has
    request       site -> coordinator    the keys that were born at the site
    reply         coordinator -> site    the certificate of the connection
    draft         coordinator -> sites   the next charter, to be compared and co-signed
    cosignature   site -> coordinator    a site's signature over that charter
    charter       coordinator -> sites   the charter with everyone's signature, see `charter`

Covers: each is one canonical JSON object of bounded size; an unknown key, another form, a changed byte, another
consortium and a site's name that could be a path are refused by the name of the file. None holds a secret.
Does not cover: whether a key is whose it claims to be. People compare fingerprints over another channel.

Specification: PROTOCOL.md section 3; every signature is over `H(label; the letter with an empty signature)`.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

from partsong.common.build import build, canonical_json
from partsong.common.deployment import check_address
from partsong.common.derive import digest
from partsong.common.errors import ConfigError, InputError
from partsong.common.identity.charter import Charter, Member
from partsong.common.identity.keys import Signer, signature_fits
from partsong.common.identity.suite import PUBLIC_KEY_BYTES, SuiteName
from partsong.common.plan import is_name

LARGEST_LETTER_BYTES = 2 << 20
"""A charter of a thousand sites has a megabyte."""
_HEX = re.compile(r"[0-9a-f]*")
_HASH = re.compile(r"[0-9a-f]{64}")


class LetterError(InputError):
    """A file from the other side that is not what it has to be; nothing was changed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Invitation:
    """What a coordinator gives to one site. It may be read by anyone, and is good for one site until it expires."""

    WHAT: ClassVar[str] = "invitation"
    format: Literal["partsong-invitation"] = "partsong-invitation"
    version: Literal[1] = 1
    consortium: str
    suite: SuiteName
    site: str
    address: str
    """host:port of the coordinator."""
    coordinator: str
    """Its identity key in lower-case hex, whose fingerprint people compare."""
    authority: str
    """PEM of the authorities that may vouch for the coordinator's server."""
    nonce: str
    """32 bytes in hex: a request answers this invitation and no other."""
    expires_s: int
    """Since 1970."""
    signature: str = ""

    def __post_init__(self) -> None:
        check_consortium(self.consortium)
        check_site_id(self.site)
        check_address("address", self.address)
        _check_key("coordinator", self.coordinator, suite=self.suite)
        _check_hash("nonce", self.nonce)


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What a site answers: two public keys of its own, signed with the one that stays for ever."""

    WHAT: ClassVar[str] = "request"
    format: Literal["partsong-request"] = "partsong-request"
    version: Literal[1] = 1
    consortium: str
    site: str
    invitation: str
    """Hash of the invitation that this answers; to renew a certificate, of the request before it."""
    key: str
    """Identity key in lower-case hex."""
    certificate_request: str
    """PKCS#10 in PEM, by the transport key."""
    signature: str = ""

    def __post_init__(self) -> None:
        check_consortium(self.consortium)
        check_site_id(self.site)
        _check_hash("invitation", self.invitation)
        _check_key("key", self.key, suite=PUBLIC_KEY_BYTES.suite_of(len(self.key) // 2) or "A")


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """What the coordinator gives back: the certificate, and the authorities that vouch for its own."""

    WHAT: ClassVar[str] = "reply"
    format: Literal["partsong-reply"] = "partsong-reply"
    version: Literal[1] = 1
    consortium: str
    site: str
    request: str
    """Hash of the request."""
    certificate: str
    """PEM: the site's, then intermediates."""
    issuer: str
    """PEM of the authority that issued it."""
    authority: str
    """PEM, as in the invitation; a later one takes its place."""
    signature: str = ""

    def __post_init__(self) -> None:
        check_consortium(self.consortium)
        check_site_id(self.site)
        _check_hash("request", self.request)


@dataclass(frozen=True, kw_only=True, slots=True)
class Draft:
    """The next charter before the sites have signed it. The signature is the coordinator's, over the charter."""

    WHAT: ClassVar[str] = "draft"
    format: Literal["partsong-draft"] = "partsong-draft"
    version: Literal[1] = 1
    charter: Charter
    signature: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Cosignature:
    """One site's signature over a draft, as `charter.sign_as_site` makes it."""

    WHAT: ClassVar[str] = "cosignature"
    format: Literal["partsong-cosignature"] = "partsong-cosignature"
    version: Literal[1] = 1
    consortium: str
    site: str
    charter: str
    """Hash of the charter."""
    signature: str

    def __post_init__(self) -> None:
        check_consortium(self.consortium)
        check_site_id(self.site)
        _check_hash("charter", self.charter)


Letter = TypeVar("Letter", Invitation, Request, Reply, Draft, Cosignature)
Signed = TypeVar("Signed", Invitation, Request, Reply)


def seal_letter(letter: Signed, signer: Signer) -> Signed:
    """Sign a letter that is signed as a whole."""
    return replace(letter, signature=signer.sign(_message(letter)).hex())


def check_seal(letter: Signed, *, key: bytes, whose: str) -> None:
    """Accept a letter that `key` signed.

    Raises:
        LetterError: it did not, or a byte was changed since.
    """
    signature = bytes.fromhex(letter.signature) if _HEX.fullmatch(letter.signature) else b""
    if not signature_fits(key, signature, _message(letter)):
        raise LetterError(letter.WHAT, found=f"no valid signature of the {whose}", expected="the letter as it was sent")


def letter_hash(letter: Invitation | Request | Reply) -> str:
    """Give the hash, in hex, by which the answer names what it answers."""
    return digest("letter", canonical_json(letter)).hex()


def to_bytes(letter: object) -> bytes:
    """Encode a letter for its file; equal letters give equal bytes."""
    return canonical_json(letter)


def read_file(path: Path) -> bytes:
    """Read a file of a letter's size at most.

    Raises:
        LetterError: there is none, or it is larger.
    """
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST_LETTER_BYTES + 1)
    except OSError as err:
        raise LetterError(str(path), found=f"no file that can be read ({err.strerror})", expected="a letter") from err
    if len(data) > LARGEST_LETTER_BYTES:
        raise LetterError(str(path), found="more than two megabytes", expected="a letter")
    return data


def format_of(data: bytes) -> str:
    """Say what a file claims to be: its `format`; a charter, which has none, and everything else give an empty text."""
    tree = _tree(data)
    found = tree.get("format") if isinstance(tree, dict) else None
    return found if isinstance(found, str) else ""


def parse(cls: type[Letter], data: bytes, *, place: str) -> Letter:
    """Read a letter in its one canonical form; signatures are checked by who knows the key.

    Args:
        cls: which one it has to be.
        data: of the file.
        place: name of the file, for error texts.
    Raises:
        LetterError: another letter, another form, or a field that is not what it has to be.
    """
    try:
        letter = build(cls, _tree(data), where=place)
    except ConfigError as err:
        raise LetterError(err.place, found=err.found, expected=f"{err.expected}, in a {cls.WHAT}") from err
    if canonical_json(letter) != data:
        raise LetterError(place, found="a form that is not canonical", expected=f"the {cls.WHAT} as it was written")
    return letter


def read_letter(cls: type[Letter], path: Path) -> Letter:
    """Read a letter from its file.

    Raises:
        LetterError: as `read_file` and `parse`.
    """
    return parse(cls, read_file(path), place=str(path))


def check_consortium(name: str) -> None:
    """Refuse a name of a consortium that cannot be shown or does not fit into a certificate."""
    if not is_name(name) or len(name.encode()) > 50:
        raise ValueError("consortium as a printable name of at most 50 bytes")


def check_site_id(site: str) -> None:
    """Refuse what no charter could list; ids become names of files."""
    Member(id=site, key="")


def _message(letter: Invitation | Request | Reply) -> bytes:
    return digest(letter.WHAT, canonical_json(replace(letter, signature="")))


def _tree(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def _check_key(name: str, key: str, *, suite: SuiteName) -> None:
    digits = 2 * PUBLIC_KEY_BYTES.of(suite)
    if len(key) != digits or not _HEX.fullmatch(key):
        raise ValueError(f"{name} as {digits} lower-case hex digits, in suite {suite}")


def _check_hash(name: str, value: str) -> None:
    if not _HASH.fullmatch(value):
        raise ValueError(f"{name} as 64 lower-case hex digits")
