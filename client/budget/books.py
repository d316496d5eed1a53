"""What a ledger's entries add up to: budgets, claims and what became of them.

Covers: entries that could not have come about (a context twice, a commit without a reservation, another delta).
Does not cover: whether the entries are all there (`chain`), and what may be added to them (`ledger`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Literal

from partsong.client.budget.chain import Entry, Head, damaged
from partsong.common.build import build
from partsong.common.errors import PartsongError, Refused
from partsong.common.privacy.accounting import Spend, StepEvents, epsilon_bound, unit_of
from partsong.common.privacy.selection import Selection, epsilon_with_selections

State = Literal["reserved", "committed", "released"]
MS_PER_DAY = 86_400_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Grant:
    """What may be spent on a holding, and how it is rationed."""

    epsilon: float | None
    """For its whole life; 0 closes the holding. None: no ceiling, not even against a query without privacy."""
    delta: float
    """Of every epsilon of the holding."""
    purposes: Mapping[str, float] = field(default_factory=dict)
    """Epsilon of the queries of one purpose, over the whole life."""
    per_quarter: float | None = None
    """Epsilon of the queries of one calendar quarter, UTC; None: no ration."""
    unfinished_per_day: int | None = None
    """Queries that may be reserved in one day, UTC, and not committed; None: any number."""

    def __post_init__(self) -> None:
        ceilings = [*self.purposes.values()]
        ceilings += [value for value in (self.epsilon, self.per_quarter) if value is not None]
        if not all(value >= 0 and math.isfinite(value) for value in ceilings):
            raise ValueError("an epsilon above 0 and finite in each ceiling, or 0 for a closed one")
        if not 0 < self.delta < 1:
            raise ValueError(f"a delta in (0, 1) beside an epsilon above 0, not {self.delta}")
        if self.unfinished_per_day is not None and self.unfinished_per_day < 0:
            raise ValueError("unfinished_per_day of at least 0")


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
    alone: tuple[StepEvents, ...] = ()
    """Under noise on the sum: the same if all other sites tell the coordinator their shares of it. Recorded, and held
    against a policy's own ceiling; a budget is charged with `events`."""
    protected: bool = True
    """False: released without differential privacy, which empties every budget of the holding."""
    selections: tuple[Selection, ...] = ()
    """Choices made here on private records (checkpoint, stopping, learning rate) whose losers never leave."""

    def __post_init__(self) -> None:
        if self.protected != bool(self.events or self.selections):
            raise ValueError("events, or protected=false, and not both")

    @property
    def records(self) -> int:
        """Most records that an event says were there; 0 where none says it."""
        events = [*self.events, *(event for choice in self.selections for event in choice.candidate)]
        return max((event.records or 0 for event in events), default=0)


@dataclass(slots=True)
class Holding:
    """A holding as the entries so far leave it."""

    grant: Grant
    fingerprint: str | None = None
    claims: dict[str, Claim] = field(default_factory=dict)
    """Reserved and committed, by context."""
    times_ms: dict[str, int] = field(default_factory=dict)
    """When each of `claims` was reserved."""
    unfinished: dict[int, int] = field(default_factory=dict)
    """By day since 1970: what was reserved then and is not committed, released or not."""

    @property
    def ceiling(self) -> float | None:
        """Lifetime epsilon; None: no ceiling."""
        return self.grant.epsilon

    @property
    def delta(self) -> float:
        """Of every epsilon of this holding."""
        return self.grant.delta

    def of_purpose(self, purpose: str) -> list[Claim]:
        """Give the claims of one purpose."""
        return [claim for claim in self.claims.values() if claim.purpose == purpose]

    def of_quarter(self, now_ms: int) -> list[Claim]:
        """Give the claims of the calendar quarter that holds `now_ms`."""
        first_ms = quarter_start_ms(now_ms)  # no claim is later than now: times never decrease
        return [claim for context, claim in self.claims.items() if self.times_ms[context] >= first_ms]


@dataclass(slots=True)
class Books:
    """All holdings, replayed from entries; refuses entries that could not have come about."""

    ledger: str = ""
    inherits: str = ""
    """The lost ledger whose claims were carried into this one."""
    holdings: dict[str, Holding] = field(default_factory=dict)
    states: dict[str, State] = field(default_factory=dict)
    owners: dict[str, str] = field(default_factory=dict)
    days: dict[str, int] = field(default_factory=dict)
    """Day on which each context was reserved."""
    anchored: Head | None = None

    def apply(self, entry: Entry) -> None:
        """Replay one entry."""
        try:
            body = json.loads(entry.body)
            if entry.kind in {"reserved", "carried"}:
                {"reserved": self._reserved, "carried": self._carried}[entry.kind](body, entry.time_ms)
                return
            {
                "opened": self._opened,
                "ceiling": self._ceiling,
                "committed": self._committed,
                "released": self._released,
                "anchored": self._anchored,
                "inherits": self._inherits,
            }[entry.kind](body)
        except (KeyError, TypeError, ValueError, PartsongError) as err:
            raise damaged(entry.number) from err

    def _opened(self, body: Any) -> None:
        if self.ledger:
            raise ValueError("opened twice")
        self.ledger = body["ledger"]

    def _ceiling(self, body: Any) -> None:
        grant = build(Grant, {key: value for key, value in body.items() if key != "holding"})
        holding = self.holdings.setdefault(body["holding"], Holding(grant=grant))
        if holding.delta != grant.delta:
            raise ValueError("another delta")
        holding.grant = grant

    def _reserved(self, body: Any, time_ms: int) -> None:
        claim, day = build(Claim, body), time_ms // MS_PER_DAY
        if claim.context in self.states:
            raise ValueError("a context twice")
        holding = self.holdings[claim.holding]
        holding.claims[claim.context], holding.fingerprint = claim, claim.fingerprint
        holding.times_ms[claim.context] = time_ms
        holding.unfinished[day] = holding.unfinished.get(day, 0) + 1
        self.states[claim.context], self.owners[claim.context] = "reserved", claim.holding
        self.days[claim.context] = day

    def _inherits(self, body: Any) -> None:
        if self.states or self.inherits:
            raise ValueError("claims are carried over before anything is reserved, and once")
        self.inherits = body["ledger"]

    def _carried(self, body: Any, time_ms: int) -> None:
        claim = build(Claim, body)
        if claim.context in self.states or not self.inherits:
            raise ValueError("a context twice, or carried from nowhere")
        holding = self.holdings[claim.holding]
        holding.claims[claim.context], holding.fingerprint = claim, claim.fingerprint
        holding.times_ms[claim.context] = time_ms
        self.states[claim.context], self.owners[claim.context] = "committed", claim.holding

    def _committed(self, body: Any) -> None:
        context = body["context"]
        self._move(context, "committed")
        self.holdings[self.owners[context]].unfinished[self.days[context]] -= 1

    def _released(self, body: Any) -> None:
        context = body["context"]
        self._move(context, "released")
        holding = self.holdings[self.owners[context]]
        del holding.claims[context], holding.times_ms[context]

    def _anchored(self, body: Any) -> None:
        self.anchored = Head(number=body["number"], digest=body["digest"])

    def _move(self, context: str, state: State) -> None:
        if self.states[context] != "reserved":
            raise ValueError("only what is reserved can be committed or released")
        self.states[context] = state


def quarter(time_ms: int) -> str:
    """Name the calendar quarter, UTC: `2026-Q4`."""
    when = datetime.fromtimestamp(time_ms / 1000, UTC)
    return f"{when.year}-Q{(when.month + 2) // 3}"


def quarter_start_ms(time_ms: int) -> int:
    """Give the first moment of the calendar quarter, UTC [ms since 1970]."""
    when = datetime.fromtimestamp(time_ms / 1000, UTC)
    return int(datetime(when.year, (when.month - 1) // 3 * 3 + 1, 1, tzinfo=UTC).timestamp() * 1000)


def spend(claims: Iterable[Claim], *, delta: float) -> Spend:
    """Compose claims; one without differential privacy makes the whole unbounded."""
    claims = tuple(claims)
    if not all(claim.protected for claim in claims):
        return Spend(epsilon=math.inf, delta=delta, accountant="pld")
    return epsilon_with_selections(
        [event for claim in claims for event in claim.events],
        [choice for claim in claims for choice in claim.selections],
        delta=delta,
    )


def spend_alone(claims: Iterable[Claim], *, delta: float) -> Spend:
    """Compose claims as they stand if all other sites work with the coordinator; unbounded where nothing bounds it."""
    left = tuple(replace(claim, events=claim.alone or claim.events) for claim in claims)
    try:
        return spend(left, delta=delta)
    except Refused:
        return Spend(epsilon=math.inf, delta=delta, accountant="rdp", unit=unit_of([e for c in left for e in c.events]))


def spend_against(claims: Iterable[Claim], *, delta: float, most: float | None) -> Spend:
    """Compose claims as precisely as a comparison with `most` asks for.

    Guarantees: an upper bound of `spend`, above `most` only where `spend` itself is. A tenth of the time wherever the
        coarse bound decides, which is everywhere but close to the ceiling.
    """
    claims = tuple(claims)
    if all(claim.protected and not claim.selections for claim in claims):
        bound = epsilon_bound([event for claim in claims for event in claim.events], delta=delta)
        if bound is not None and (most is None or bound.epsilon <= most):
            return bound
    return spend(claims, delta=delta)
