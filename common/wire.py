"""Messages between coordinator and sites: a header of canonical JSON, at most one vector and one note, raw bytes.

The note is a message of the secure sum (`PROTOCOL.md`), which has signatures and a codec of its own; a plan with
`masked=false` has none.

Covers: version, kind, strict types, one encoding for each message, names that can be shown, exact vector length,
size caps. Does not cover: who sent it (the transport's and the note's signatures' business).

| kind    | from        | vector                    | note                    | meaning                                |
|---------|-------------|---------------------------|-------------------------|----------------------------------------|
| propose | coordinator | adapter: frozen part, then trained part, f32 | - | the plan of the whole run                 |
| accept  | site        | -                         | -                       | it lies inside this site's rules       |
| refuse  | site        | -                         | -                       | it does not; a code from a short list  |
| keys    | coordinator | -                         | BEGIN to REVEALS        | a step of set-up                       |
| keyed   | site        | -                         | BUNDLE to REVEAL        | its answer                             |
| open    | coordinator | trained adapter part, f32 | OPEN                    | asks one query                         |
| ready   | site        | -                         | READY                   | the update waits at the site           |
| roster  | coordinator | block of the last sum     | ROSTER                  | who is in the sum                      |
| report  | site        | sealed words if unmasked  | REPORT                  | the update, encoded and masked         |
| confirm | coordinator | -                         | CONFIRM request         | whose reports have arrived             |
| unmask  | coordinator | -                         | UNMASK request          | enough sites have confirmed            |
| step    | site        | -                         | CONFIRM or UNMASK       | the answer to either                   |
| result  | coordinator | -                         | RESULT                  | a sum to check outside of a round      |
| checked | site        | -                         | VERDICT                 | what the site found                    |
| offer   | coordinator | -                         | -                       | the adapters that are published        |
| want    | site        | -                         | -                       | those that it has not stored           |
| publish | coordinator | adapter: frozen part, then trained part, f32 | small files | an adapter, whole              |
| stored  | site        | -                         | -                       | it was checked and stored              |
"""

from __future__ import annotations

import functools
import json
import re
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, cast

from partsong.common import vectors
from partsong.common.build import build, canonical_json
from partsong.common.errors import ConfigError, WireError
from partsong.common.plan import LONGEST_NAME, Plan, is_name

WIRE_VERSION = 1
MAX_HEADER_BYTES = 1 << 20
"""A plan with ten thousand tensors takes about 1 MB."""

vector_bytes, floats, words = vectors.vector_bytes, vectors.floats, vectors.words

T = TypeVar("T")
RefusalCode = Literal["plan", "policy", "budget", "data", "model", "state", "sum"]
KeyStep = Literal["begin", "pair", "reveal", "finish"]
AdapterFile = Literal[
    "README.md", "adapter_config.json", "adapter_model.safetensors", "privacy.json", "provenance.json"
]
WEIGHTS: AdapterFile = "adapter_model.safetensors"
MOST_OFFERED = 100
MOST_SMALL_FILE_BYTES = 1 << 22
_REMEMBERED = 4
"""Headers whose meaning is remembered: immutable bytes give immutable values, so nobody can tell. Up to 1 MiB each."""
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Propose:
    """The coordinator proposes a plan."""

    kind = "propose"
    plan: Plan


@dataclass(frozen=True, kw_only=True, slots=True)
class Accept:
    """A site agrees to the plan."""

    kind = "accept"
    site: str
    plan_sha256: str

    def __post_init__(self) -> None:
        _check_names(self.site)


@dataclass(frozen=True, kw_only=True, slots=True)
class Refuse:
    """A site declines; rule and numbers stay at the site."""

    kind = "refuse"
    site: str
    code: RefusalCode

    def __post_init__(self) -> None:
        _check_names(self.site)


@dataclass(frozen=True, kw_only=True, slots=True)
class Keys:
    """A step of key set-up; PROTOCOL.md section 5 says what rides beside it."""

    kind = "keys"
    plan_sha256: str
    step: KeyStep


@dataclass(frozen=True, kw_only=True, slots=True)
class Keyed:
    """A site's answer to a step of set-up."""

    kind = "keyed"
    site: str
    step: KeyStep

    def __post_init__(self) -> None:
        _check_names(self.site)


@dataclass(frozen=True, kw_only=True, slots=True)
class Open:
    """A round begins."""

    kind = "open"
    plan_sha256: str
    round: int
    attempt: int
    adapter_sha256: str
    summed: int
    """Round whose sum rides in the note for checking; 0: none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ready:
    """The site has its update."""

    kind = "ready"
    site: str
    round: int
    attempt: int
    block: int = -1
    """Block of the last sum that the site wants to see with ROSTER; -1: none."""

    def __post_init__(self) -> None:
        _check_names(self.site)


@dataclass(frozen=True, kw_only=True, slots=True)
class Roster:
    """Who is in the sum of this round."""

    kind = "roster"
    plan_sha256: str
    round: int
    attempt: int
    sites: tuple[str, ...]

    def __post_init__(self) -> None:
        _check_names(*self.sites)


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """The sealed vector rides beside this header."""

    kind = "report"
    site: str
    round: int
    attempt: int

    def __post_init__(self) -> None:
        _check_names(self.site)


@dataclass(frozen=True, kw_only=True, slots=True)
class Confirm:
    """The reports have arrived; a CONFIRM is asked for."""

    kind = "confirm"
    plan_sha256: str
    round: int
    attempt: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Unmask:
    """Enough sites have confirmed; shares are asked for."""

    kind = "unmask"
    plan_sha256: str
    round: int
    attempt: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """A site's CONFIRM or UNMASK."""

    kind = "step"
    site: str
    round: int
    attempt: int

    def __post_init__(self) -> None:
        _check_names(self.site)


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """A sum to check, and the adapter that follows from it."""

    kind = "result"
    plan_sha256: str
    summed: int
    """Round whose sum rides in the note."""
    adapter_sha256: str
    """Empty where a later result follows at once: the site recomputes the adapter and compares at the last."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Checked:
    """A site has checked a sum; what it found is in the note."""

    kind = "checked"
    site: str

    def __post_init__(self) -> None:
        _check_names(self.site)


@dataclass(frozen=True, kw_only=True, slots=True)
class Offered:
    """One published adapter."""

    run: str
    plan_sha256: str
    adapter_sha256: str

    def __post_init__(self) -> None:
        _check_names(self.run)
        _check_digests(self.plan_sha256, self.adapter_sha256)


@dataclass(frozen=True, kw_only=True, slots=True)
class Offer:
    """The adapters that a site may ask for, the newest last."""

    kind = "offer"
    adapters: tuple[Offered, ...]

    def __post_init__(self) -> None:
        if not len(self.adapters) <= MOST_OFFERED:
            raise ValueError(f"at most {MOST_OFFERED} adapters")


@dataclass(frozen=True, kw_only=True, slots=True)
class Want:
    """Those of the offered that the site lacks, by plan."""

    kind = "want"
    site: str
    plans: tuple[str, ...]

    def __post_init__(self) -> None:
        _check_names(self.site)
        _check_digests(*self.plans)
        if not len(set(self.plans)) == len(self.plans) <= MOST_OFFERED:
            raise ValueError(f"at most {MOST_OFFERED} plans without repeats")


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedFile:
    """A file of the PEFT directory."""

    name: AdapterFile
    size: int
    sha256: str

    def __post_init__(self) -> None:
        _check_digests(self.sha256)
        if self.size < 0 or (self.name != WEIGHTS and self.size > MOST_SMALL_FILE_BYTES):
            raise ValueError(f"files of at most {MOST_SMALL_FILE_BYTES} bytes beside the weights")


@dataclass(frozen=True, kw_only=True, slots=True)
class Publish:
    """A published adapter: whose plan it is, and what its directory holds."""

    kind = "publish"
    plan: Plan
    adapter_sha256: str
    """Of the trained part; a site compares it with its own copy, which it computed from the sums."""
    files: tuple[PublishedFile, ...]
    """Sorted by name. The note holds all but the weights, one after the other; the weights follow from the vector."""

    def __post_init__(self) -> None:
        _check_digests(self.adapter_sha256)
        names = [file.name for file in self.files]
        if names != sorted(set(names)) or WEIGHTS not in names:
            raise ValueError("files sorted by name, without repeats, the weights among them")


@dataclass(frozen=True, kw_only=True, slots=True)
class Stored:
    """The site has checked the adapter and stored it."""

    kind = "stored"
    site: str
    plan_sha256: str

    def __post_init__(self) -> None:
        _check_names(self.site)
        _check_digests(self.plan_sha256)


def encode(message: Any) -> bytes:
    """Encode a message's header."""
    return canonical_json({"wire": WIRE_VERSION, "kind": message.kind, "body": message})


def decode(data: bytes, cls: type[T]) -> T:
    """Decode a header that must be a `cls`.

    Raises:
        WireError: unknown wire version, another kind, an unknown or missing field, a wrong type, over 1 MiB,
            or not the canonical encoding. Nothing of the message was acted on.
    """
    return cast(T, _decoded(data, cast(Any, cls), WIRE_VERSION))


@functools.lru_cache(maxsize=_REMEMBERED)
def _decoded(data: bytes, cls: type[Any], version: int) -> Any:
    """Decode; the newest headers are remembered, since a coordinator sends every site the same ones."""
    tree = _tree(data)
    if tree["wire"] != version or type(tree["wire"]) is not int:
        text = f"wire version {_shown(tree['wire'])} is unknown here, expected {version}; update the older side"
        raise WireError(text, rule="wire.version")
    kind = getattr(cls, "kind", None)
    if set(tree) != {"wire", "kind", "body"} or tree["kind"] != kind:
        raise WireError(f"message header: expected kind {kind}, found {_shown(tree.get('kind'))}")
    try:
        message = build(cls, tree["body"])
        canonical = encode(message)
    except ConfigError as err:
        raise WireError(f"{kind} message: {_shown(err, most=300)}", rule="wire.form") from err
    except (ValueError, RecursionError) as err:
        raise WireError(f"{kind} message: a value that has no canonical form", rule="wire.form") from err
    if canonical != data:
        raise WireError(f"{kind} message: not in canonical form", rule="wire.form")
    return message


def kind_of(data: bytes) -> str:
    """Name the kind of a header without trusting the rest of it.

    Raises:
        WireError: no header at all.
    """
    return _kind_of(data)


@functools.lru_cache(maxsize=_REMEMBERED)
def _kind_of(data: bytes) -> str:
    return _shown(_tree(data).get("kind"))


def _tree(data: bytes) -> dict[str, Any]:
    if len(data) > MAX_HEADER_BYTES:
        raise WireError(f"message header: found {len(data)} bytes, expected at most {MAX_HEADER_BYTES}")
    try:
        tree = json.loads(data)
    except (ValueError, RecursionError) as err:
        raise WireError("message header: not JSON") from err
    if not isinstance(tree, dict) or "wire" not in tree:
        raise WireError("message header: no wire version")
    return tree


def _check_names(*names: str) -> None:
    if not all(map(is_name, names)):
        raise ValueError(f"site names of 1 to {LONGEST_NAME} printable characters")


def _check_digests(*digests: str) -> None:
    if not all(map(_SHA256.fullmatch, digests)):
        raise ValueError("SHA-256 as 64 lower-case hex digits")


def _shown(value: object, *, most: int = 20) -> str:
    """Cut what a stranger wrote to a length and characters that an error text can hold."""
    text = str(value)[:most]
    return text if text.isprintable() else ascii(text)
