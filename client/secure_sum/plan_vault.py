"""A part of a vault for one plan: several plans at one site keep their keys apart.

Covers: no plan reads, replaces or erases a record of another one.
Does not cover: the vault itself, which keeps what it is given.
"""

from __future__ import annotations

from partsong.client.secure_sum.vault import Vault

RECORDS = ("plan", "ended plans", "run", "report", "survivors", "set-up attempts", "wrong sum")
"""Every record that the secure sum keeps of a plan."""


class PlanVault:
    """The records of one plan."""

    def __init__(self, vault: Vault, plan_sha256: str) -> None:
        """Use records of `vault` whose names begin with the plan's hash, which no other name does."""
        self._vault, self._plan = vault, plan_sha256

    def read(self, name: str) -> bytes | None:
        """Give the record, or None."""
        return self._vault.read(self._named(name))

    def write(self, name: str, data: bytes) -> None:
        """Replace the record. Durable when this returns."""
        self._vault.write(self._named(name), data)

    def erase(self, name: str) -> None:
        """Remove the record, as far as the medium allows."""
        self._vault.erase(self._named(name))

    def erase_all(self) -> None:
        """Remove every record of the plan. Only for one that is never taken up again: its keys would be made anew."""
        for name in RECORDS:
            self.erase(name)

    def _named(self, name: str) -> str:
        return f"{self._plan} {name}"
