"""What goes to a worker and comes back: bytes in a strict encoding, over a pipe or through Ray."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Annotated, ClassVar

from partsong.common.codec import Payload

ANSWERED, FAILED, SHORT, BROKEN = range(4)
"""The site answered; it refused or failed on purpose; the machine is short of something; a mistake of the program."""
_US = 1_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """A message for a site, or, without a header, that its process ends and starts on its disk."""

    LABEL: ClassVar[str] = "engine question"
    site: int
    """Its place among the names."""
    clock_us: int
    """What the site's clock says [Unix time, microseconds]."""
    header: bytes
    vector: Payload
    note: Payload


@dataclass(frozen=True, kw_only=True, slots=True)
class Questions:
    """Messages for sites that are asked together, no site twice."""

    LABEL: ClassVar[str] = "engine questions"
    each: tuple[Question, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Stepped:
    """A training step of a site."""

    LABEL: ClassVar[str] = "engine step"
    round: int
    step: int
    steps: int
    local_loss: Annotated[bytes, 8]


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """What became of a question."""

    LABEL: ClassVar[str] = "engine reply"
    outcome: int
    header: bytes
    vector: Payload
    note: Payload
    said: bytes
    """What went wrong, for the site's own eyes."""
    told: tuple[bytes, ...]
    """What the site refused, for the site's own eyes."""
    steps: tuple[Stepped, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Replies:
    """What became of questions, in their order."""

    LABEL: ClassVar[str] = "engine replies"
    each: tuple[Reply, ...]


def to_us(moment_s: float) -> int:
    """Round a Unix time to microseconds."""
    return max(0, round(moment_s * _US))


def to_s(moment_us: int) -> float:
    """Give a Unix time in seconds."""
    return moment_us / _US


def loss_bytes(value: float) -> bytes:
    """Write a loss, exactly."""
    return struct.pack(">d", value)


def loss_of(data: bytes) -> float:
    """Read a loss."""
    return float(struct.unpack(">d", data)[0])
