"""The site's record of privacy spent: reserved before a record is read, committed before a vector is sealed.

Covers: a coordinator that asks for more than a holding's lifetime budget, in whatever runs and under whatever name;
    crashes at any moment (what was sent is always recorded); edits and, with a head that the site or its peers
    remember, rollback.
Does not cover: releases that never ask the ledger; the truth of the events (they come from the accepted plan and
    the sampler); what other sites spend on the same person.

A reservation counts as spent until it is released, and may be released only where nothing was committed: sealing
happens after a durable commit, so a context without commit was never sealed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from partsong.client.budget.books import MS_PER_DAY, Books, Claim, Grant, Holding, State, spend, spend_against
from partsong.client.budget.carried import Past
from partsong.client.budget.chain import Chain, Entry, Head, rolled_back
from partsong.client.budget.rations import require_finished, require_rations, require_small_delta
from partsong.client.budget.remembered import RememberedHead
from partsong.common.build import to_tree
from partsong.common.errors import Refused
from partsong.common.privacy.accounting import Spend

__all__ = ["Claim", "Grant", "Holding", "Ledger", "State"]


class Ledger:
    """One site's ledger. Every call sees what every process of this site has written.

    Raises, from every method: `Refused` with `ledger_damaged`, `ledger_rolled_back` or `ledger_replaced`, and
    `TryAgain` if the disk is full or another process does not let go. Nothing was recorded then, or, where the disk
    failed during the last write, it may have been recorded: what is in doubt counts as spent.
    """

    def __init__(
        self, path: Path, *, remembered: RememberedHead | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        """Open or create, and check every entry.

        Args:
            path: of the SQLite file.
            remembered: the newest commit that was made here, which this ledger has to hold; every commit is kept
                there. None: nobody remembers.
            clock: seconds since 1970; only for display and rationing, never for order.
        Raises:
            DataError: what is remembered is damaged.
        """
        self._remembered = remembered
        known = None if remembered is None else remembered.read()
        self._chain = Chain(path, clock=clock)
        self._books = Books()
        self._damage: Refused | None = None
        with contextlib.ExitStack() as unless_opened:
            unless_opened.callback(self._chain.close)
            self._open(known)
            unless_opened.pop_all()

    def set_ceiling(
        self,
        holding: str,
        *,
        epsilon: float | None,
        delta: float,
        purposes: Mapping[str, float] | None = None,
        per_quarter: float | None = None,
        unfinished_per_day: int | None = None,
    ) -> None:
        """Set what a holding may spend in its lifetime: an act of the site's operator, recorded like a spend.

        Args:
            holding: new or known.
            epsilon: > 0; lower than what is spent stops the holding. None: no ceiling, not even against a query
                without differential privacy.
            delta: (0, 1); of every epsilon of this holding, fixed when the holding is first named.
            purposes: epsilon that each of these purposes may take of the lifetime.
            per_quarter: epsilon of one calendar quarter.
            unfinished_per_day: reservations of one day that may stay without a commit.
        Raises:
            Refused: `delta_changed`, `blocks_mixed`; nothing was recorded.
        """
        if epsilon is not None and not epsilon > 0:
            raise ValueError(f"epsilon above 0 and finite, or None, not {epsilon}")
        grant = Grant(
            epsilon=epsilon,
            delta=delta,
            purposes=dict(purposes or {}),
            per_quarter=per_quarter,
            unfinished_per_day=unfinished_per_day,
        )
        with self._chain.writing() as append:
            self._catch_up()
            self._require_fitting(holding, grant)
            append("ceiling", {"holding": holding, **to_tree(grant)})

    def adopt(self, grants: Mapping[str, Grant]) -> tuple[str, ...]:
        """Make these the budgets in force; a holding that is not among them is closed. All or nothing.

        Args:
            grants: by holding, see `Policy.grants`.
        Returns:
            The holdings whose budget changed.
        Raises:
            Refused: `delta_changed`, `blocks_mixed`; nothing was recorded.
        """
        with self._chain.writing() as append:
            self._catch_up()
            known = self._books.holdings
            gone = {name: Grant(epsilon=0.0, delta=known[name].delta) for name in known if name not in grants}
            changed = {
                name: grant
                for name, grant in {**gone, **grants}.items()
                if name not in known or known[name].grant != grant
            }
            for name, grant in changed.items():
                self._require_fitting(name, grant, among=grants)
                append("ceiling", {"holding": name, **to_tree(grant)})
        return tuple(changed)

    def carry(self, past: Past) -> None:
        """Begin with what a lost ledger of these records had spent: all of it counts as sent, and as of now.

        Nothing changes where it was carried over before, or is of this very ledger.

        Raises:
            Refused: `ledger_begun`, if something was reserved here already; nothing was recorded.
        """
        with self._chain.writing() as append:
            self._catch_up()
            if past.ledger in (self._books.ledger, self._books.inherits):
                return
            if self._books.states or self._books.inherits:
                raise Refused(
                    "ledger_begun",
                    reason="this ledger has claims of its own; those of another one can only stand before them",
                    remedy="lower each holding's epsilon by what the other ledger had spent",
                )
            head = append("inherits", {"ledger": past.ledger, **to_tree(past.head)})
            for name, grant in past.grants.items():
                append("ceiling", {"holding": name, **to_tree(grant)})
            for claim in past.claims:
                head = append("carried", to_tree(claim))
        # Only now: a head that is remembered and was never written would close the ledger for good.
        if self._remembered is not None:
            self._remembered.keep(head)

    @property
    def begun(self) -> bool:
        """Whether anything was reserved here or carried over."""
        with self._now() as books:
            return bool(books.states or books.inherits)

    @property
    def only_inherited(self) -> bool:
        """Whether all that it knows was carried over from a lost ledger."""
        with self._now() as books:
            return bool(books.inherits) and not books.days

    def reserve(self, claim: Claim) -> Spend:
        """Set a query's cost aside; only then may a record be read.

        Returns:
            What the holding has spent, this claim included: an upper bound, a thousandth above the exact value.
        Raises:
            Refused: `unknown_holding`, `context_used`, `delta_too_large`, `too_many_unfinished`, `over_budget`,
                `over_ration`; nothing was recorded, nothing may be read.
        """
        with self._chain.writing() as append:
            self._catch_up()
            spent = self._cost(claim)
            append("reserved", to_tree(claim))
        return spent

    def quote(self, claim: Claim) -> Spend:
        """Say what `reserve` would say now; nothing is recorded.

        Raises:
            Refused: as `reserve`.
        """
        with self._now():
            return self._cost(claim)

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
        return spend(found.claims.values(), delta=found.delta)

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
            return dataclasses.replace(
                found, claims=dict(found.claims), times_ms=dict(found.times_ms), unfinished=dict(found.unfinished)
            )

    def holdings(self) -> tuple[str, ...]:
        """Name all holdings."""
        with self._now() as books:
            return tuple(books.holdings)

    @property
    def now_ms(self) -> int:
        """The time that rations go by: the clock's, but never before the newest entry's [ms since 1970]."""
        return self._chain.now_ms()

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

    def holds(self, head: Head) -> bool:
        """Whether an entry that somebody remembers is here."""
        with self._now():
            return self._chain.contains(head)

    def find(self, digest: bytes) -> Head:
        """Find the entry that somebody remembers by its digest alone.

        Raises:
            Refused: `ledger_rolled_back`, if there is none; the site must stop spending.
        """
        with self._now():
            found = self._chain.find(digest)
        if found is None:
            raise rolled_back(None)
        return found

    def entries(self) -> tuple[Entry, ...]:
        """Give every entry, checked again from the first."""
        entries, books = self._chain.entries(), Books()
        for entry in entries:
            books.apply(entry)
        return entries

    def close(self) -> None:
        """Let go of the file."""
        self._chain.close()

    def _open(self, known: Head | None) -> None:
        with self._chain.writing() as append:
            self._catch_up()
            if known is not None and not self._chain.contains(known):
                raise rolled_back(known)
            if not self._books.ledger:
                append("opened", {"ledger": os.urandom(16).hex()})

    def _finish(self, context: str, state: State) -> Head:
        with self._chain.writing() as append:
            self._catch_up()
            if self._books.states.get(context) != "reserved":
                raise Refused(
                    "not_reserved",
                    reason=f"this round and attempt is {self._books.states.get(context, 'unknown')} here, not reserved",
                    remedy="reserve a new attempt",
                )
            head = append(state, {"context": context})
            if state == "committed" and self._remembered is not None:
                self._remembered.keep(head)
            return head

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

    def _cost(self, claim: Claim) -> Spend:
        """Give the holding's spend with this claim, or refuse it."""
        holding, now_ms = self._books.holdings.get(claim.holding), self._chain.now_ms()
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
        require_small_delta(holding, claim)
        require_finished(holding, claim, day=now_ms // MS_PER_DAY)
        spent = spend_against([*holding.claims.values(), claim], delta=holding.delta, most=holding.ceiling)
        if holding.ceiling is not None and spent.epsilon > holding.ceiling:
            raise Refused(
                "over_budget",
                reason=f"holding {claim.holding} would reach epsilon {spent.epsilon:.4g} of {holding.ceiling:.4g}",
                remedy="ask for fewer steps or more noise, or let the operator raise the ceiling",
            )
        require_rations(holding, claim, now_ms=now_ms)
        return spent

    def _require_fitting(self, name: str, grant: Grant, *, among: Iterable[str] = ()) -> None:
        known = self._books.holdings.get(name)
        if known is not None and known.delta != grant.delta:
            raise Refused(
                "delta_changed",
                reason=f"holding {name} is accounted at delta {known.delta}; epsilons of two deltas do not add",
                remedy="keep the delta",
            )
        whole = name.partition("/")[0]
        for other in {*self._books.holdings, *among}:
            if name != other and other.partition("/")[0] == whole and whole in (name, other):
                raise Refused(
                    "blocks_mixed",
                    reason=f"holding {whole} is accounted as a whole and in blocks, so a record would have two budgets",
                    remedy="keep it as it was when it was first named, or name a new body of other records",
                )
