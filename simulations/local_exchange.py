"""An exchange within one process: each question is one call, each answer its result.

Messages are bytes and are never changed in place, so sites share nothing that they would not share over a network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

from partsong.client.secure_sum.door import Answer
from partsong.common.errors import PartsongError, TryAgain
from partsong.server.exchange import Parcel
from partsong.server.rounds import Loss


class Handler(Protocol):
    """A site's side of the protocol, as `partsong.client.site.Site`."""

    def handle(self, header: bytes, *, vector: bytes = b"", note: bytes = b"") -> Answer:
        """Answer one message."""
        ...


class LocalExchange:
    """Asks one site after the other. Its address is its place among the names."""

    def __init__(
        self,
        names: Sequence[str],
        site_of: Callable[[str], Handler],
        *,
        on_error: Callable[[str, PartsongError], None] = lambda _s, _e: None,
    ) -> None:
        """Connect sites.

        Args:
            names: of all that are registered.
            site_of: finds a site when a message comes for it.
            on_error: told a site's error.
        """
        self._names, self._site_of, self._on_error = names, site_of, on_error

    def addresses(self) -> tuple[int, ...]:
        """Every site is connected."""
        return tuple(range(len(self._names)))

    def site_at(self, address: int) -> str:
        """The site at an address."""
        return self._names[address]

    def ask(
        self,
        parcels: Mapping[int, Parcel],
        *,
        phase: str,  # noqa: ARG002 - each answers at once
        timeout_s: float,  # noqa: ARG002
    ) -> Iterator[tuple[int, Parcel | Loss]]:
        """Yield each site's answer; an error on purpose is a failure of the site, any other comes out.

        Raises:
            TryAgain: this machine is short of something, which all sites share.
        """
        for address, parcel in parcels.items():
            name = self._names[address]
            try:
                answer = self._site_of(name).handle(parcel.header, vector=parcel.vector, note=parcel.note)
            except TryAgain:
                raise
            except PartsongError as err:
                self._on_error(name, err)
                yield address, Loss.FAILED
            else:
                yield address, Parcel(header=answer.header, vector=answer.vector, note=answer.note)
