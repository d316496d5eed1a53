"""The messages of the secure sum.

Each class is one message or a part of one; `codec` gives their bytes. Specification: PROTOCOL.md sections 5 to 8.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Protocol, TypeVar

from partsong.common.codec import Hash, Payload, pack, unpack
from partsong.common.derive import digest
from partsong.common.errors import WireError
from partsong.common.identity.keys import Signer, signature_fits
from partsong.common.identity.suite import EXCHANGE_KEY_BYTES, KEM_KEY_BYTES, SIGNATURE_BYTES, SuiteName


class Message(Protocol):
    """Anything with a label of its own."""

    LABEL: ClassVar[str]


T = TypeVar("T", bound=Message)


@dataclass(frozen=True, kw_only=True, slots=True)
class Signed:
    """A packed message and a signature over it. Whose it is follows from the message."""

    LABEL: ClassVar[str] = "signed"
    body: bytes
    signature: Annotated[bytes, SIGNATURE_BYTES]


def sign(message: Message, signer: Signer) -> Signed:
    """Pack and sign."""
    body = pack(message)
    return Signed(body=body, signature=signer.sign(digest("signature", body)))


def open_signed(cls: type[T], signed: Signed, *, key: bytes) -> T:
    """Check the signature and decode.

    Raises:
        WireError: not signed by `key`, or not a message of class `cls`; it was dropped.
    """
    require_signature(cls, signed, key=key)
    return unpack(cls, signed.body)


def require_signature(cls: type[T], signed: Signed, *, key: bytes) -> None:
    """Check the signature of a packed message.

    Raises:
        WireError: not signed by `key`; it was dropped.
    """
    if not signature_fits(key, signed.signature, digest("signature", signed.body)):
        raise WireError(f"message {cls.LABEL}: found no valid signature of its sender; it was dropped")


# Set-up.


@dataclass(frozen=True, kw_only=True, slots=True)
class Begin:
    """Coordinator: a set-up starts."""

    LABEL: ClassVar[str] = "begin"
    charter: Hash
    run: Hash
    """Names the run; the hash of its plan."""
    attempt: int
    """1 for the first try of this run."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bundle:
    """Site: the public keys that it made for this run."""

    LABEL: ClassVar[str] = "bundle"
    begin: Hash
    site: int
    exchange: Annotated[bytes, EXCHANGE_KEY_BYTES]
    kem: Annotated[bytes, KEM_KEY_BYTES]
    commitment: Hash
    """Of the beacon nonce that REVEAL shows."""


def require_suite(bundle: Bundle, *, suite: SuiteName) -> None:
    """Refuse the public keys of another suite than the charter's.

    Raises:
        WireError: names the site; its bundle was dropped.
    """
    found = EXCHANGE_KEY_BYTES.suite_of(len(bundle.exchange))
    if found != suite:
        raise WireError(
            f"message bundle: found keys of suite {found} from site {bundle.site}, expected {suite}; it was dropped"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Bundles:
    """Coordinator to all: every bundle, by ascending site."""

    LABEL: ClassVar[str] = "bundles"
    bundles: tuple[Signed, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Pairing:
    """Site to one site of higher number: the secret of their pair."""

    LABEL: ClassVar[str] = "pairing"
    transcript: Hash
    site: int
    receiver: int
    sealed: bytes
    group: bytes
    """The group key under the pair's key, from the first site only; otherwise empty."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pairings:
    """What one site sends in set-up, or what one site gets."""

    LABEL: ClassVar[str] = "pairings"
    pairings: tuple[Signed, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Reveal:
    """Site: its beacon nonce, and the group key it has, by hash."""

    LABEL: ClassVar[str] = "reveal"
    transcript: Hash
    site: int
    nonce: Hash
    group: Hash


@dataclass(frozen=True, kw_only=True, slots=True)
class Reveals:
    """Coordinator to all: every reveal, by ascending site."""

    LABEL: ClassVar[str] = "reveals"
    reveals: tuple[Signed, ...]


# Rounds.


@dataclass(frozen=True, kw_only=True, slots=True)
class Header:
    """Coordinator: what a round is about."""

    LABEL: ClassVar[str] = "header"
    setup: Hash
    """Of the run, with its charter, keys and members."""
    round: int
    """From 1; each OPEN takes a higher number, a repeated training round too."""
    model: Hash
    """What the sites start from; the application says what it covers."""
    query: Hash
    """What is asked and how; the application says what it covers."""
    encoding: Hash
    """SHA-256 of the encoding of the vector."""
    words: int
    """Words of the encoded vector, without the tag."""
    minimum_sum: int
    """Fewest survivors, where noise on the sum asks for more than the floors."""
    noised: int
    """1 where every release is noised and charged, or holds nothing of a record; 0 where it is not."""
    deadline: int
    """Unix time in seconds after which no site masks for this round."""
    previous_round: int
    """Last round that has a result; 0 for none."""
    previous: Hash
    """Hash of that result; `setup` for none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ready:
    """Site: it has an update for this round, and what it thinks of the previous result."""

    LABEL: ClassVar[str] = "ready"
    header: Hash
    site: int
    verdict: int
    """1: the previous result is right, or there is none. 0: it is not."""
    ledger: Hash
    """Digest of the newest entry of the site's own ledger, which it knows again in a result; zeros for none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Roster:
    """Coordinator: the sites of this round, by ascending site."""

    LABEL: ClassVar[str] = "roster"
    header: Hash
    readys: tuple[Signed, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportHeader:
    """Site: what it sends, by hash."""

    LABEL: ClassVar[str] = "report header"
    context: Hash
    site: int
    vector: Hash
    """Merkle root of the masked words."""
    bundles: Hash
    """Digest of all its share bundles."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """Site: its masked words and a share bundle for each other share holder of the roster, by ascending site."""

    LABEL: ClassVar[str] = "report"
    header: Signed
    bundles: tuple[bytes, ...]
    words: Payload
    """The words and the tag words, 8 bytes each, little-endian."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Survivors:
    """Coordinator: the sites whose report it has, by ascending site."""

    LABEL: ClassVar[str] = "survivors"
    context: Hash
    reports: tuple[Signed, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class ConfirmRequest:
    """Coordinator to one site: the survivors, and, if it holds shares, the bundles of the others for it, ascending."""

    LABEL: ClassVar[str] = "confirm request"
    survivors: Signed
    bundles: tuple[bytes, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Confirm:
    """Site: these survivors and no others, in this context."""

    LABEL: ClassVar[str] = "confirm"
    context: Hash
    survivors: Hash
    site: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Quorum:
    """Coordinator: confirmations by ascending site."""

    LABEL: ClassVar[str] = "quorum"
    context: Hash
    confirms: tuple[Signed, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Unmask:
    """Site: its shares, for each other survivor by ascending site: the own-mask seed, then each orphaned pair seed."""

    LABEL: ClassVar[str] = "unmask"
    context: Hash
    site: int
    shares: tuple[bytes, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Statement:
    """Coordinator: the sum of a round, by hash."""

    LABEL: ClassVar[str] = "statement"
    context: Hash
    survivors: Hash
    sum: Hash
    """Merkle root of the opened words."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """Coordinator to all: the sum of a round with everything that shows it is one."""

    LABEL: ClassVar[str] = "result"
    statement: Signed
    header: Signed
    readys: tuple[Signed, ...]
    reports: tuple[Signed, ...]
    confirms: tuple[Signed, ...]
    words: Payload
    """The opened words and tag words, 8 bytes each, little-endian."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Open:
    """Coordinator to all: a round starts. Carries the previous result for sites that do not have it."""

    LABEL: ClassVar[str] = "open"
    header: Signed
    result: bytes
    """A packed `Result`, or empty."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """Site: what it thinks of the last result of a run."""

    LABEL: ClassVar[str] = "verdict"
    result: Hash
    model: Hash
    """What it says follows from that result, as `Header.model` names it; zeros where another result comes next."""
    site: int
    verdict: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Revocation:
    """Coordinator or the site itself: this site takes no further part in the run."""

    LABEL: ClassVar[str] = "revocation"
    setup: Hash
    site: int
