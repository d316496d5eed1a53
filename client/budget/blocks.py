"""A holding cut by date: each block has a budget of its own, so nobody may stand in two of them.

Covers: a unit (a patient, or a record that stands for itself) whose dates fall into two blocks, or into none; a unit
    that was in another block the last time, because a date was changed or blocks were redrawn.
Does not cover: a person under two names, and dates that were wrong from the beginning.

Budgets of blocks may stand side by side only because their units are disjoint: what is done to one block tells
nothing of a unit in another (parallel composition, McSherry 2009, theorem 4). A unit in two blocks would spend both.
"""

from __future__ import annotations

import hashlib
import hmac
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from partsong.client.secure_sum.vault import Vault
from partsong.common.errors import Refused
from partsong.common.secure_sum.shamir import Entropy

KEY_BYTES = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """One part of a holding."""

    name: str
    """Short, printable, without /."""
    first: str
    """First day that belongs to it, as 2024-01-31."""
    last: str
    """Last day that belongs to it."""

    def __post_init__(self) -> None:
        if not (0 < len(self.name) <= 60 and self.name.isprintable()) or "/" in self.name:
            raise ValueError("a block name of 1 to 60 printable characters, without /")
        if self.days[0] > self.days[1]:
            raise ValueError(f"block {self.name} with its first day not after its last")

    @property
    def days(self) -> tuple[date, date]:
        """First and last day."""
        try:
            return date.fromisoformat(self.first), date.fromisoformat(self.last)
        except ValueError as err:
            raise ValueError(f"days of block {self.name} as 2024-01-31") from err


def check_layout(blocks: Sequence[Block]) -> None:
    """Check that no day belongs to two blocks.

    Raises:
        ValueError: two blocks share a name or a day.
    """
    if len({block.name for block in blocks}) != len(blocks):
        raise ValueError("blocks with different names")
    ordered = sorted(blocks, key=lambda block: block.days)
    for earlier, later in itertools.pairwise(ordered):
        if later.days[0] <= earlier.days[1]:
            raise ValueError(f"blocks without a day in common, not {earlier.name} and {later.name}")


def assign(
    blocks: Sequence[Block], rows: Iterable[tuple[str, date]], *, known: Mapping[str, str], key: bytes
) -> tuple[tuple[str, ...], dict[str, str]]:
    """Say to which block each row belongs.

    Guarantees: all rows of one unit are in one block, the same as ever before.
    Args:
        blocks: of the holding; see `check_layout`.
        rows: for each record its unit (a patient's id, or the record's own digest) and its date. The date must be one
            that nobody changes later: of admission, not of last contact.
        known: what the last call gave, so that a unit stays where it was; empty the first time.
        key: 32 bytes that never leave the site. Names of units are kept only as keyed hashes.
    Returns:
        The block of each row, in order; and what to keep for the next call. Units that are gone stay in it.
    Raises:
        Refused: `unit_in_two_blocks`, `unit_moved`, `date_in_no_block`; no row was used.
    """
    if len(key) != KEY_BYTES:
        raise ValueError(f"a key of {KEY_BYTES} bytes")
    check_layout(blocks)
    days = [(block.name, *block.days) for block in blocks]
    seen: dict[str, str] = {}
    found = []
    for number, (unit, day) in enumerate(rows, start=1):
        name = next((name for name, first, last in days if first <= day <= last), None)
        if name is None:
            raise _refused("date_in_no_block", f"row {number} has a date that is in no block")
        tag = hmac.new(key, unit.encode(), hashlib.sha256).hexdigest()
        if seen.setdefault(tag, name) != name:
            raise _refused("unit_in_two_blocks", f"row {number} puts a unit into a second block")
        if known.get(tag, name) != name:
            raise _refused("unit_moved", f"row {number} has a unit that was in another block before")
        found.append(name)
    return tuple(found), {**known, **seen}


def assign_for_good(
    blocks: Sequence[Block],
    rows: Iterable[tuple[str, date]],
    *,
    holding: str,
    vault: Vault,
    spent: bool,
    entropy: Entropy,
) -> tuple[str, ...]:
    """Do as `assign`, and remember in the vault, before returning, where each unit is.

    Args:
        blocks: of the holding.
        rows: as for `assign`.
        holding: its name.
        vault: of the site; it keeps the keyed names and their key.
        spent: whether the ledger holds a claim on any block of the holding.
        entropy: uniform bytes, in production `os.urandom`.
    Raises:
        Refused: as `assign`, and `blocks_forgotten` where budgets were spent and nobody remembers by whom; no row
            was used.
    """
    name = f"blocks {hashlib.sha256(holding.encode()).hexdigest()[:16]}"
    record = vault.read(name)
    if record is None and spent:
        raise _refused("blocks_forgotten", "budgets of blocks were spent, and which units they were is lost")
    kept: Any = {"key": entropy(KEY_BYTES).hex(), "units": {}} if record is None else json.loads(record)
    names, units = assign(blocks, rows, known=kept["units"], key=bytes.fromhex(kept["key"]))
    vault.write(name, json.dumps({"key": kept["key"], "units": units}).encode())
    return names


def _refused(rule: str, reason: str) -> Refused:
    return Refused(
        rule,
        reason=f"{reason}, so it could spend two budgets",
        remedy="cut by a date that each unit has once and that never changes, or give the holding no blocks",
    )
