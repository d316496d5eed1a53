"""The site's record of privacy spent: reserved before a record is read, committed before a vector is sealed.

Covers: a coordinator that asks for more than a holding's lifetime budget, in whatever runs and under whatever name;
    crashes at any moment (what was sent is always recorded); edits and, with a head that peers remember, rollback.
Does not cover: releases that never ask the ledger; the truth of the events (they come from the accepted plan and
    the sampler); what other sites spend on the same person.

A reservation counts as spent until it is released, and may be released only where nothing was committed: sealing
happens after a durable commit, so a context without commit was never sealed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from partsong.client.chain import Chain, Entry, Head, damaged, rolled_back
from partsong.common.accounting import Spend, StepEvents, epsilon
from partsong.common.build import build, to_tree
from partsong.common.errors import PartsongError, Refused

State = Literal["reserved", "committed", "released"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """What one query will cost, and for whom."""

    holding: str
    """Named body of records; its budget outlives every version of the data."""
    context: str
    """Names the one sealed vector that this pays for: plan, round and attempt. Used once, ever."""
    purpose: str
    """Kind of query: train, evaluate, survey."""
    run: str
    coordinator: str
    """Fingerprint of the coordinator's key."""
    fingerprint: str
    """Of the records as they are now. A changed one inherits what was spent."""
    events: tuple[StepEvents, ...]
    """Everything that the query releases, with this site's cut of samples (`StepEvents.at_site`)."""
    protected: bool = True
    """False: released without differential privacy, which empties every budget of the holding."""

    def __post_init__(self) -> None:
        if self.protected != bool(self.events):
            raise ValueError("events, or protected=false, and not both")


@dataclass(slots=True)
class Holding:
    """A holding as the entries so far leave it."""

    ceiling: float | None
    delta: float
    fingerprint: str | None = None
    claims: dict[str, Claim] = field(default_factory=dict)


@dataclass(slots=True)
class Books:
    """All holdings, replayed from entries; refuses entries that could not have come about."""

    ledger: str = ""
    holdings: dict[str, Holding] = field(default_factory=dict)
    states: dict[str, State] = field(default_factory=dict)
    owners: dict[str, str] = field(default_factory=dict)
    anchored: Head | None = None

    def apply(self, entry: Entry) -> None:
        """Replay one entry."""
        try:
            body = json.loads(entry.body)
            {
                "opened": self._opened,
                "ceiling": self._ceiling,
                "reserved": self._reserved,
                "committed": self._committed,
                "released": self._released,
                "anchored": self._anchored,
            }[entry.kind](body)
        except (KeyError, TypeError, ValueError, PartsongError) as err:
            raise damaged(entry.number) from err

    def _opened(self, body: Any) -> None:
        if self.ledger:
            raise ValueError("opened twice")
        self.ledger = body["ledger"]

    def _ceiling(self, body: Any) -> None:
        holding = self.holdings.setdefault(body["holding"], Holding(ceiling=None, delta=body["delta"]))
        if holding.delta != body["delta"]:
            raise ValueError("another delta")
        holding.ceiling = body["epsilon"]

    def _reserved(self, body: Any) -> None:
        claim = build(Claim, body)
        if claim.context in self.states:
            raise ValueError("a context twice")
        holding = self.holdings[claim.holding]
        holding.claims[claim.context], holding.fingerprint = claim, claim.fingerprint
        self.states[claim.context], self.owners[claim.context] = "reserved", claim.holding

    def _committed(self, body: Any) -> None:
        self._move(body["context"], "committed")

    def _released(self, body: Any) -> None:
        self._move(body["context"], "released")
        del self.holdings[self.owners[body["context"]]].claims[body["context"]]

    def _anchored(self, body: Any) -> None:
        self.anchored = Head(number=body["number"], digest=body["digest"])

    def _move(self, context: str, state: State) -> None:
        if self.states[context] != "reserved":
            raise ValueError("only what is reserved can be committed or released")
        self.states[context] = state


class Ledger:
    """One site's ledger. Every call sees what every process of this site has written.

    Raises, from every method: `Refused` with `ledger_damaged`, `ledger_rolled_back` or `ledger_replaced`, and
    `TryAgain` if the disk is full or another process does not let go. Nothing was recorded then, or, where the disk
    failed during the last write, it may have been recorded: what is in doubt counts as spent.
    """

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.time) -> None:
        """Open or create, and check every entry.

        Args:
            path: of the SQLite file.
            clock: seconds since 1970; only for display and rationing, never for order.
        """
        self._chain = Chain(path, clock=clock)
        self._books = Books()
        self._damage: Refused | None = None
        with self._chain.writing() as append:
            self._catch_up()
            if not self._books.ledger:
                append("opened", {"ledger": os.urandom(16).hex()})

    def set_ceiling(self, holding: str, *, epsilon: float | None, delta: float) -> None:
        """Set what a holding may spend in its lifetime: an act of the site's operator, recorded like a spend.

        Args:
            holding: new or known.
            epsilon: > 0; lower than what is spent stops the holding. None: no ceiling, not even against a query
                without differential privacy.
            delta: (0, 1); of every epsilon of this holding, fixed when the holding is first named.
        Raises:
            Refused: `delta_changed`; nothing was recorded.
        """
        if not 0 < delta < 1 or (epsilon is not None and not (epsilon > 0 and math.isfinite(epsilon))):
            raise ValueError(f"epsilon above 0 and finite, or None, and delta in (0, 1), not {epsilon} and {delta}")
        with self._chain.writing() as append:
            self._catch_up()
            known = self._books.holdings.get(holding)
            if known is not None and known.delta != delta:
                raise Refused(
                    "delta_changed",
                    reason=f"holding {holding} is accounted at delta {known.delta}; epsilons of two deltas do not add",
                    remedy="keep the delta",
                )
            append("ceiling", {"holding": holding, "epsilon": epsilon, "delta": delta})

    def reserve(self, claim: Claim) -> Spend:
        """Set a query's cost aside; only then may a record be read.

        Returns:
            What the holding has spent, this claim included.
        Raises:
            Refused: `unknown_holding`, `context_used`, `over_budget`; nothing was recorded, nothing may be read.
        """
        with self._chain.writing() as append:
            self._catch_up()
            holding = self._books.holdings.get(claim.holding)
            if holding is None:
                raise Refused(
                    "unknown_holding",
                    reason=f"no lifetime budget was ever set for holding {claim.holding}",
                    remedy="let the site's operator set one",
                )
            if claim.context in self._books.states:
                raise Refused(
                    "context_used",
                    reason="this round and attempt was reserved here before",
                    remedy="let the coordinator open a new attempt",
                )
            spend = _spend([*holding.claims.values(), claim], delta=holding.delta)
            if holding.ceiling is not None and spend.epsilon > holding.ceiling:
                raise Refused(
                    "over_budget",
                    reason=f"holding {claim.holding} would reach epsilon {spend.epsilon:.4g} of {holding.ceiling:.4g}",
                    remedy="ask for fewer steps or more noise, or let the operator raise the ceiling",
                )
            append("reserved", to_tree(claim))
        return spend

    def commit(self, context: str) -> Head:
        """Make a reservation final; only then may the vector be sealed.

        Returns:
            The new head: what the site's next signed message tells its peers.
        Raises:
            Refused: `not_reserved`; nothing was recorded, nothing may be sealed.
        """
        return self._finish(context, "committed")

    def release(self, context: str) -> Head:
        """Give a reservation back. The caller has erased the update, so that it can never be sealed.

        Raises:
            Refused: `not_reserved`, also for a committed context: it counts as sent. Nothing was recorded.
        """
        return self._finish(context, "released")

    def outstanding(self) -> tuple[str, ...]:
        """Name the contexts that are reserved and neither committed nor released: after a crash, those in doubt."""
        with self._now() as books:
            return tuple(c for c, state in books.states.items() if state == "reserved")

    def state(self, context: str) -> State | None:
        """Say what became of a context; None if it was never reserved."""
        with self._now() as books:
            return books.states.get(context)

    def spent(self, holding: str) -> Spend:
        """Compose everything reserved or committed on a holding, at its delta.

        Raises:
            Refused: `unknown_holding`.
        """
        found = self.holding(holding)
        return _spend(list(found.claims.values()), delta=found.delta)

    def holding(self, name: str) -> Holding:
        """Give a copy of a holding: its ceiling, its delta and the claims that count.

        Raises:
            Refused: `unknown_holding`.
        """
        with self._now() as books:
            if name not in books.holdings:
                raise Refused(
                    "unknown_holding", reason=f"no holding {name} in this ledger", remedy="see the ledger's holdings"
                )
            found = books.holdings[name]
            return dataclasses.replace(found, claims=dict(found.claims))

    def holdings(self) -> tuple[str, ...]:
        """Name all holdings."""
        with self._now() as books:
            return tuple(books.holdings)

    @property
    def head(self) -> Head:
        """The newest entry."""
        with self._now():
            return self._chain.head

    @property
    def anchored(self) -> Head | None:
        """The newest head that was recorded as seen by others; None: rollback to before today would go unnoticed."""
        with self._now() as books:
            return books.anchored

    def anchor(self, head: Head, *, witnesses: Sequence[str]) -> None:
        """Record that others have seen a head in a message that this site signed.

        Raises:
            Refused: `ledger_rolled_back`, if this ledger does not hold that head: an older copy was put back.
        """
        self.require(head)
        with self._chain.writing() as append:
            self._catch_up()
            append("anchored", {"number": head.number, "digest": head.digest, "witnesses": sorted(witnesses)})

    def require(self, *heads: Head) -> None:
        """Check this ledger against heads that others remember of it.

        Raises:
            Refused: `ledger_rolled_back`; the site must stop spending.
        """
        with self._now():
            for head in heads:
                if not self._chain.contains(head):
                    raise rolled_back(head)

    def entries(self) -> tuple[Entry, ...]:
        """Give every entry, checked again from the first."""
        entries, books = self._chain.entries(), Books()
        for entry in entries:
            books.apply(entry)
        return entries

    def close(self) -> None:
        """Let go of the file."""
        self._chain.close()

    def _finish(self, context: str, state: State) -> Head:
        with self._chain.writing() as append:
            self._catch_up()
            if self._books.states.get(context) != "reserved":
                raise Refused(
                    "not_reserved",
                    reason=f"this round and attempt is {self._books.states.get(context, 'unknown')} here, not reserved",
                    remedy="reserve a new attempt",
                )
            return append(state, {"context": context})

    @contextlib.contextmanager
    def _now(self) -> Iterator[Books]:
        """Give the books as they are, and keep them so for the time of a block."""
        with self._chain.lock:
            self._catch_up()
            yield self._books

    def _catch_up(self) -> None:
        """Apply what this and other processes have written since the last look; damage stays damage."""
        if self._damage is not None:
            raise self._damage
        try:
            for entry in self._chain.read_new():
                self._books.apply(entry)
        except Refused as err:
            self._damage = err
            raise


def _spend(claims: Sequence[Claim], *, delta: float) -> Spend:
    """Compose claims; one without differential privacy makes the whole unbounded."""
    if not all(claim.protected for claim in claims):
        return Spend(epsilon=math.inf, delta=delta, accountant="pld")
    return epsilon([event for claim in claims for event in claim.events], delta=delta)
