"""What one round means in messages: what each phase sends to whom, and what is made of the answers.

Two ways to add up: `PlainDesk` sees each site's words, `MaskedDesk` runs the secure sum and sees the sum alone.
A desk keeps no phase and no list of who answered: that is the round's (`partsong.server.rounds`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from partsong.common import wire
from partsong.common.adapters.adapter import FloatVec, digest
from partsong.common.errors import WireError
from partsong.common.plan import Plan
from partsong.common.secure_sum.opened import Opened
from partsong.common.thresholds import Floors, smallest_roster, smallest_sum
from partsong.server.aggregate import Accumulator
from partsong.server.exchange import Parcel
from partsong.server.rounds import PLAIN, Phase, Round

T = TypeVar("T", wire.Ready, wire.Report, wire.Step)


@dataclass(frozen=True, kw_only=True, slots=True)
class Query:
    """What a study asks in one round."""

    round: int
    attempt: int
    adapter_P: FloatVec


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How a round ended."""

    state: Round
    opened: Opened | None
    """None: the round was aborted."""
    bytes_out: dict[str, int]
    """Bytes that left each site whose report is in the sum, in all phases of the round."""


class Desk(Protocol):
    """One round's messages."""

    @property
    def phases(self) -> tuple[Phase, ...]:
        """What the round waits for, in order."""
        ...

    def needed(self, phase: Phase) -> int:
        """Answers that `phase` takes."""
        ...

    def parcels(self, phase: Phase, sites: Sequence[str]) -> Mapping[str, Parcel]:
        """Give those of `sites` that the phase asks their message; called once, which ends the phase before.

        Raises:
            PartsongError: the phase cannot begin; the round ends without a sum.
        """
        ...

    def take(self, phase: Phase, site: str, answer: Parcel) -> None:
        """Take a site's answer.

        Raises:
            WireError: it is not this site's answer in this phase; nothing was taken.
        """
        ...

    def open(self) -> Opened:
        """Open the sum, once the last phase has its answers.

        Raises:
            PartsongError: what was taken is no sum; nothing was opened.
        """
        ...


class PlainDesk:
    """Adds up words that it can read. Only for plans with `masked=false`."""

    phases = PLAIN

    def __init__(self, plan: Plan, query: Query, *, floors: Floors | None = None, members: int = 0) -> None:
        """Prepare a round.

        Args:
            plan: of the run.
            query: of the round.
            floors: of the secure sum whose place this takes; None: the plan's floor alone.
            members: sites that may take part, where there are `floors`.
        """
        self._plan, self._query, self._floors, self._members = plan, query, floors, members
        self._total, self._roster = Accumulator(plan=plan, number=query.round), 0

    def needed(self, phase: Phase) -> int:
        """Give the plan's floor, or what the secure sum would need."""
        minimum = self._plan.minimum_cohort
        if self._floors is None:
            return minimum
        if phase is Phase.READY:
            return smallest_roster(self._floors, plan_minimum=minimum, members=self._members)
        return max(smallest_sum(roster=self._roster, floors=self._floors), minimum)

    def parcels(self, phase: Phase, sites: Sequence[str]) -> Mapping[str, Parcel]:
        """OPEN, then ROSTER; the same for all."""
        if phase is Phase.READY:
            return dict.fromkeys(sites, opening(self._plan, self._query, summed=0))
        self._roster = len(sites)
        return dict.fromkeys(sites, Parcel(header=wire.encode(roster(self._plan, self._query, sites))))

    def take(self, phase: Phase, site: str, answer: Parcel) -> None:
        """READY, then REPORT with the words."""
        if phase is Phase.READY:
            answer_of(wire.Ready, answer, site=site, query=self._query)
            return
        answer_of(wire.Report, answer, site=site, query=self._query)
        self._total.add(answer.vector)

    def open(self) -> Opened:
        """Decode the sum."""
        return self._total.open()


def opening(plan: Plan, query: Query, *, summed: int, note: bytes = b"") -> Parcel:
    """Write OPEN."""
    header = wire.Open(
        plan_sha256=plan.sha256,
        round=query.round,
        attempt=query.attempt,
        adapter_sha256=digest(query.adapter_P),
        summed=summed,
    )
    return Parcel(header=wire.encode(header), vector=wire.vector_bytes(query.adapter_P), note=note)


def roster(plan: Plan, query: Query, sites: Sequence[str]) -> wire.Roster:
    """Write ROSTER."""
    return wire.Roster(plan_sha256=plan.sha256, round=query.round, attempt=query.attempt, sites=tuple(sites))


def answer_of(cls: type[T], answer: Parcel, *, site: str, query: Query) -> T:
    """Read an answer's header.

    Raises:
        WireError: of another kind, site, round or attempt than the one asked.
    """
    found = wire.decode(answer.header, cls)
    if (found.site, found.round, found.attempt) != (site, query.round, query.attempt):
        raise WireError(f"{found.kind}: speaks of another site or round than the one asked")
    return found
