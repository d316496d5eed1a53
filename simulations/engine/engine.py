"""The seam between a federation and what plays its sites."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from partsong.server.exchange import Exchange


class Engine(Protocol):
    """Plays the sites of one run, each on its disk."""

    def start(self) -> None:
        """Start all sites."""
        ...

    def play(self, main: Callable[[Exchange], None]) -> None:
        """Let the coordinator talk to the sites; its errors come out."""
        ...

    def site_at(self, address: int) -> str:
        """The site at an address of the exchange."""
        ...

    def restart(self, name: str) -> None:
        """End a site's process and start it on its disk."""
        ...

    def close(self) -> None:
        """End all sites."""
        ...
