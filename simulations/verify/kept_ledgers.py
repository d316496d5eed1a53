"""The sites' ledgers of a simulated run against its sums: whole, and every round that a site is in was paid for.

Only a simulated run has the sites' folders beside it; elsewhere each site checks its own ledger
(`partsong site ledger verify`).
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from partsong.client.budget.ledger import Ledger
from partsong.client.budget.ledger_export import verify
from partsong.common.errors import PartsongError
from partsong.common.plan import Plan
from partsong.simulations.verify.findings import Findings
from partsong.simulations.verify.kept_sums import Sums

_FILE = "ledger.sqlite"


class NotPaid(PartsongError):
    """A site's vector is in a sum that its ledger knows nothing of."""


def check_ledgers(path: Path, plan: Plan, sums: Sums | None, findings: Findings) -> None:
    """Check each ledger under `path`/sites.

    Args:
        path: the run directory.
        plan: of the run.
        sums: whose sites have to have paid; None: only the ledgers' own order is checked.
        findings: takes up what is found.
    """
    ledgers = sorted((path / "sites").glob(f"*/{_FILE}"))
    if not ledgers:
        findings.not_checked("sites/", "not in this copy; each site checks its own: partsong site ledger verify")
    for file in ledgers:
        site = file.parent.name
        rounds = () if sums is None else tuple(number for number, sites in sums.sites.items() if site in sites)
        place = f"sites/{site}/{_FILE}"
        words = findings.attempt(place, lambda f=file, r=rounds: _check(f, plan, r))  # type: ignore[misc]
        if words is not None:
            findings.right(place, words)


def ledger_heads(path: Path) -> dict[str, str]:
    """Give the digest of the newest entry of each ledger under `path`/sites, by the name of its folder.

    Raises:
        Refused: a ledger is damaged.
    """
    return {file.parent.name: _head(file) for file in sorted((path / "sites").glob(f"*/{_FILE}"))}


def _head(file: Path) -> str:
    with _opened(file) as ledger:
        return ledger.head.digest


@contextmanager
def _opened(file: Path) -> Iterator[Ledger]:
    """Open a copy: SQLite may write to what it opens."""
    with tempfile.TemporaryDirectory() as scratch:
        for part in file.parent.glob(f"{_FILE}*"):
            shutil.copy(part, scratch)
        ledger = Ledger(Path(scratch) / _FILE)
        try:
            yield ledger
        finally:
            ledger.close()


def _check(file: Path, plan: Plan, rounds: tuple[int, ...]) -> str:
    with _opened(file) as ledger:
        entries = verify(ledger).entries
        paid = _paid(ledger, plan)
    if missing := [number for number in rounds if number not in paid]:
        raise NotPaid(f"found no payment for round {missing[0]}, expected one: this site is in its sum")
    return f"{entries} entries, each follows from those before it; {len(paid)} rounds of this plan paid"


def _paid(ledger: Ledger, plan: Plan) -> set[int]:
    """Rounds of a plan that were committed."""
    contexts = (json.loads(e.body)["context"] for e in ledger.entries() if e.kind == "committed")
    return {int(context.split(":")[1]) for context in contexts if context.startswith(f"{plan.sha256}:")}
