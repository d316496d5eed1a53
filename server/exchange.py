"""The seam between the coordinator and whatever carries its messages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from partsong.server.rounds import Loss


@dataclass(frozen=True, kw_only=True, slots=True)
class Parcel:
    """One message: a header, at most one vector and at most one note of the secure sum."""

    header: bytes
    vector: bytes = b""
    note: bytes = b""

    @property
    def size(self) -> int:
        """Bytes that travel, without the transport's own."""
        return len(self.header) + len(self.vector) + len(self.note)


class Exchange(Protocol):
    """Sends each address its parcel and hands answers over as they arrive."""

    def addresses(self) -> tuple[int, ...]:
        """Every site that can be reached now."""
        ...

    def site_at(self, address: int) -> str | None:
        """The site that is connected at this address; None where the transport does not know, as in a simulation."""
        ...

    def ask(
        self, parcels: Mapping[int, Parcel], *, phase: str, timeout_s: float
    ) -> Iterator[tuple[int, Parcel | Loss]]:
        """Send and yield each answer once, or why there is none; silent addresses are not yielded.

        Args:
            parcels: for each address its message.
            phase: kind of the messages, as in `partsong.common.wire`.
            timeout_s: how long to wait for the last answer.
        """
        ...
