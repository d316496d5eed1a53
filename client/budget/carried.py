"""What a lost ledger had spent, carried into a new one: a restored site goes on with the budget that is left.

Covers: every claim that the export lists counts as spent in the new ledger, at the delta of its holding, and no context
of it is used again; an export that was edited, or of an older state than another that is there, is refused.
Does not cover: what was spent after the export was written. Nobody but the lost ledger knew it; a site that remembers
a newer commit says so and asks for a word of its operator.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from partsong.client.budget.books import Books, Claim, Grant
from partsong.client.budget.chain import NOTHING, Entry, Head, digest_of
from partsong.common.build import build, canonical_json
from partsong.common.errors import ConfigError, DataError, Refused

MOST_BYTES = 256 << 20
"""Of an export that is read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Past:
    """What an export tells, checked."""

    ledger: str
    """Which ledger it is of."""
    head: Head
    """Its newest entry."""
    heads: frozenset[tuple[int, str]]
    """Number and digest of every entry."""
    grants: dict[str, Grant]
    claims: tuple[Claim, ...]
    """Reserved and committed: all that counts as spent."""

    def holds(self, head: Head) -> bool:
        """Whether it knows of an entry."""
        return (head.number, head.digest) in self.heads


def read_export(text: str, *, place: str) -> Past:
    """Read what `partsong site ledger export` wrote, and check its chain from the first entry.

    Args:
        text: JSON.
        place: where it was found, for errors.
    Raises:
        DataError: it is no export, or was changed.
        Refused: `ledger_damaged`: its entries could not have come about.
    """
    try:
        tree = json.loads(text)
        entries = [build(Entry, {**line, "body": _text(line["body"])}) for line in tree["entries"]]
        stated = build(Head, tree["head"])
    except (ValueError, KeyError, TypeError, RecursionError, ConfigError) as err:
        raise _damaged(place, "no export") from err
    if not entries or _head_of(entries, place=place) != stated:
        raise _damaged(place, "entries that do not follow from each other")
    books = Books()
    for entry in entries:
        books.apply(entry)
    return Past(
        ledger=books.ledger,
        head=stated,
        heads=frozenset((entry.number, entry.digest) for entry in entries),
        grants={name: holding.grant for name, holding in books.holdings.items()},
        claims=tuple(claim for holding in books.holdings.values() for claim in holding.claims.values()),
    )


def require_newer(new: Past, old: Past) -> None:
    """Refuse an export that does not go on from another one.

    Raises:
        Refused: `older_export`.
    """
    if not new.holds(old.head):
        raise Refused(
            "older_export",
            reason="the export lacks the newest entry of the one that is here: it is older, or another ledger's",
            remedy="take the newest export of the lost ledger",
        )


def _head_of(entries: list[Entry], *, place: str) -> Head:
    head, time_ms = NOTHING, 0
    for entry in entries:
        follows = digest_of(
            bytes.fromhex(head.digest), number=entry.number, time_ms=entry.time_ms, kind=entry.kind, body=entry.body
        )
        if (entry.number, entry.digest) != (head.number + 1, follows.hex()) or entry.time_ms < time_ms:
            raise _damaged(place, f"an entry {entry.number} that does not follow from those before it")
        head, time_ms = Head(number=entry.number, digest=entry.digest), entry.time_ms
    return head


def _text(body: Any) -> str:
    return canonical_json(body).decode()


def _damaged(place: str, found: str) -> DataError:
    return DataError(
        place,
        found=found,
        expected="an unchanged JSON export of a ledger",
        remedy="take another copy of what `partsong site ledger export` wrote",
    )
