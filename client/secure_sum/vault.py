"""Where a site's half of the protocol keeps what must survive a crash.

The protocol writes before it sends. A vault that loses or rolls back a write breaks the promises of the secure
sum: a restored backup of it counts as a corrupt site. Records hold secrets; a vault on disk encrypts them.
"""

from __future__ import annotations

from typing import Protocol


class Vault(Protocol):
    """Named records, each replaced as a whole."""

    def read(self, name: str) -> bytes | None:
        """Give the record, or None."""

    def write(self, name: str, data: bytes) -> None:
        """Replace the record. Durable when this returns; after a crash the old or the new one is there, whole."""

    def erase(self, name: str) -> None:
        """Remove the record, as far as the medium allows."""


class MemoryVault:
    """A vault that ends with its process, for simulations and tests."""

    def __init__(self) -> None:
        self._records: dict[str, bytes] = {}

    def read(self, name: str) -> bytes | None:
        """Give the record, or None."""
        return self._records.get(name)

    def write(self, name: str, data: bytes) -> None:
        """Replace the record."""
        self._records[name] = data

    def erase(self, name: str) -> None:
        """Remove the record."""
        self._records.pop(name, None)
