"""A round of the secure sum at the coordinator's desk: relays messages, opens the sum, keeps what checks it.

Covers: this process never holds a site's words unmasked.
Does not cover: anything about trusting this process; the sites keep their secrets from it, whatever it runs.

Specification: PROTOCOL.md sections 6 to 8.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from partsong.common import wire
from partsong.common.adapters.adapter import digest
from partsong.common.codec import unpack
from partsong.common.errors import WireError
from partsong.common.events import SharesDisputed
from partsong.common.plan import Plan
from partsong.common.secure_sum.merkle import leaves_of
from partsong.common.secure_sum.messages import Header, Report, Signed
from partsong.common.secure_sum.opened import Opened, encoding_hash, model_hash, query_hash, read_opened
from partsong.common.secure_sum.recompute import prove_blocks
from partsong.common.secure_sum.result import OpenedSum
from partsong.common.secure_sum.transcript import RunFacts
from partsong.common.thresholds import quorum, smallest_roster, smallest_sum
from partsong.server.desk import Query, answer_of, opening, roster
from partsong.server.exchange import Parcel
from partsong.server.rounds import MASKED, Phase
from partsong.server.secure_sum.protocol import SumRound
from partsong.server.secure_sum.sum_journal import KeptResult, SumJournal


def header_of(plan: Plan, query: Query, run: RunFacts, *, round_: int, last: LastSum | None, deadline: int) -> Header:
    """Say what a training round is about, so that sites agree on all of it or share no mask.

    Args:
        plan: of the run.
        query: of the round.
        run: of set-up.
        round_: number of the OPEN, above all before it.
        last: the last result, or None.
        deadline: Unix time in seconds after which no site masks.
    """
    return Header(
        setup=run.setup,
        round=round_,
        model=model_hash(digest(query.adapter_P)),
        query=query_hash(plan, number=query.round),
        encoding=encoding_hash(plan, number=query.round),
        words=plan.encoding_of(query.round).words(),
        minimum_sum=plan.minimum_sum,
        noised=int(plan.survives_differences),
        deadline=deadline,
        previous_round=last.header.round if last else 0,
        previous=last.hash if last else run.setup,
    )


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class LastSum:
    """The last sum, as the next round needs it."""

    kept: KeptResult
    """Where its RESULT lies."""
    header: Header
    hash: bytes
    """Names the result."""
    context: bytes
    sites: tuple[int, ...]
    """Whose vectors were added."""
    size: int
    """Bytes of words and tag. The words themselves are not held from round to round."""

    @classmethod
    def of(cls, kept: KeptResult, opened: OpenedSum) -> LastSum:
        """Take what the next round needs."""
        return cls(
            kept=kept,
            header=opened.header,
            hash=opened.hash,
            context=opened.context,
            sites=opened.sites,
            size=opened.words.nbytes + opened.tag.nbytes,
        )


class MaskedDesk:
    """One round."""

    phases = MASKED

    def __init__(
        self,
        plan: Plan,
        query: Query,
        *,
        desk: SumRound,
        header: Header,
        run: RunFacts,
        journal: SumJournal,
        previous: LastSum | None,
    ) -> None:
        """Prepare a round.

        Args:
            plan: of the run.
            query: of the round.
            desk: the round of the secure sum.
            header: of that round.
            run: of set-up.
            journal: keeps reports, shares and the result.
            previous: the last sum; None before the first.
        """
        self._plan, self._query, self._desk, self._header, self._run = plan, query, desk, header, run
        self._journal, self._previous = journal, previous
        self._wanted: dict[str, int] = {}
        self.opened: LastSum | None = None
        """What was opened, for the next round."""

    def needed(self, phase: Phase) -> int:
        """Give what the charter's floors and the protocol ask for."""
        floors = self._run.charter.floors
        if phase is Phase.READY:
            return smallest_roster(floors, plan_minimum=self._fewest(), members=len(self._run.members))
        size = len(self._desk.roster)
        if phase is Phase.REPORT:
            return max(smallest_sum(roster=size, floors=floors), self._fewest())
        if phase is Phase.CONFIRM:
            return quorum(roster=size, corrupt=floors.corrupt_tolerance)
        return 1  # which shares suffice shows when the seeds are rebuilt

    def parcels(self, phase: Phase, sites: Sequence[str]) -> Mapping[str, Parcel]:
        """OPEN, ROSTER, each site's CONFIRM request, the UNMASK request for those that hold shares."""
        if phase is Phase.READY:
            last = self._previous
            number, packed = (0, b"") if last is None else (last.kept.number, self._journal.read(last.kept))
            return dict.fromkeys(
                sites, opening(self._plan, self._query, summed=number, note=self._desk.open(result=packed))
            )
        if phase is Phase.REPORT:
            note = self._desk.close_roster()
            # All who signed READY, also one whose own answer was lost: the sites compare names and signatures.
            header = wire.encode(roster(self._plan, self._query, self._names(self._desk.roster)))
            blocks = self._blocks(sites)
            return {site: Parcel(header=header, note=note, vector=blocks.get(site, b"")) for site in sites}
        plan_sha256, number, attempt = self._plan.sha256, self._query.round, self._query.attempt
        if phase is Phase.CONFIRM:
            header = wire.encode(wire.Confirm(plan_sha256=plan_sha256, round=number, attempt=attempt))
            requests = self._desk.close_reports()
            return {site: Parcel(header=header, note=requests[self._number(site)]) for site in sites}
        header = wire.encode(wire.Unmask(plan_sha256=plan_sha256, round=number, attempt=attempt))
        parcel = Parcel(header=header, note=self._desk.close_confirms())
        return {site: parcel for site in sites if self._number(site) in self._desk.holders}

    def take(self, phase: Phase, site: str, answer: Parcel) -> None:
        """READY, REPORT, CONFIRM, UNMASK, each signed by its site."""
        if phase is Phase.READY:
            ready = answer_of(wire.Ready, answer, site=site, query=self._query)
            self._sent_by(site, self._desk.add_ready(answer.note))
            self._wanted[site] = ready.block
        elif phase is Phase.REPORT:
            answer_of(wire.Report, answer, site=site, query=self._query)
            number = self._desk.add_report(answer.note)
            words = unpack(Report, answer.note).words
            self._journal.spool_report(self._header.round, site=number, words=words)
            self._sent_by(site, number)
        elif phase is Phase.CONFIRM:
            answer_of(wire.Step, answer, site=site, query=self._query)
            self._sent_by(site, self._desk.add_confirm(answer.note))
        else:
            answer_of(wire.Step, answer, site=site, query=self._query)
            number = self._desk.add_unmask(answer.note)
            self._journal.spool_unmask(self._header.round, site=number, message=answer.note)
            self._sent_by(site, number)

    def open(self) -> Opened:
        """Take the masks off the sum, decode it and keep the result."""
        packed, result = self._desk.open_sum()
        opened = read_opened(result, self._plan, self._run.charter, number=self._query.round)
        kept = KeptResult(round=result.header.round, number=self._query.round, roster=self._names(self._desk.roster))
        self._journal.keep(kept, packed)
        self.opened = LastSum.of(kept, result)
        return opened

    def disputes(self) -> SharesDisputed | None:
        """Say what the shares of the opened sum contradicted; None where they agreed."""
        pairs = sum(map(len, self._desk.disputed.values()))
        if not pairs:
            return None
        return SharesDisputed(round=self._query.round, disputes=pairs, liars=self._names(self._desk.liars))

    def _fewest(self) -> int:
        """Fewest summands that the plan asks for."""
        return max(self._plan.minimum_cohort, self._plan.minimum_sum)

    def _blocks(self, sites: Sequence[str]) -> dict[str, bytes]:
        """Give each site the block of the last sum that it wants to see, unless there is none or it is gone."""
        last = self._previous
        spooled = None if last is None else self._journal.spooled(last.header.round)
        if last is None or spooled is None:
            return {}
        leaves = leaves_of(last.size)
        wanted = {site: leaf for site in sites if 0 <= (leaf := self._wanted.get(site, -1)) < leaves}
        if not wanted:
            return {}
        proofs = prove_blocks(
            context=last.context,
            leaves=set(wanted.values()),
            vectors=spooled.vectors.only(last.sites),
            unmasks=[unpack(Signed, message) for _, message in sorted(spooled.unmasks.items())],
        )
        return {site: proofs[leaf] for site, leaf in wanted.items()}

    def _names(self, numbers: Sequence[int]) -> tuple[str, ...]:
        return tuple(self._run.charter.sites[number].id for number in numbers)

    def _number(self, site: str) -> int:
        return self._run.charter.number_of(site)

    def _sent_by(self, site: str, number: int) -> None:
        """Refuse a note that another site signed. The message itself is that site's own and stays."""
        if number != self._number(site):
            raise WireError(f"{site}: sent a message that another site signed")
