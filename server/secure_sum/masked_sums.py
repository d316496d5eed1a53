"""The coordinator's part in the secure sum of one run: keys at its start, a desk for each round, a check at its end.

Specification: PROTOCOL.md sections 5 to 8.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass

from partsong.common import wire
from partsong.common.codec import unpack
from partsong.common.errors import Refused, RoundAborted, WireError
from partsong.common.identity.charter import Charter
from partsong.common.identity.keys import Signer
from partsong.common.plan import Plan
from partsong.common.secure_sum.messages import Signed, Verdict
from partsong.common.secure_sum.opened import model_hash, query_hash, read_opened
from partsong.common.secure_sum.result import OpenedSum, read_result
from partsong.common.secure_sum.transcript import RunFacts, read_from_sites
from partsong.common.thresholds import Floors, smallest_roster
from partsong.server.desk import Outcome, Query
from partsong.server.exchange import Parcel
from partsong.server.rounds import MASKED, Loss, Phase, Round
from partsong.server.secure_sum.key_setup import SetupRelay
from partsong.server.secure_sum.masked_desk import LastSum, MaskedDesk, header_of
from partsong.server.secure_sum.protocol import SumRound
from partsong.server.secure_sum.sum_journal import KeptResult, SumJournal

MOST_SETUPS = 5
"""Tries before a run is given up; a site takes part in sixteen."""

Ask = Callable[[Mapping[str, Parcel], str], Iterator[tuple[str, Parcel | Loss]]]
"""Sends each site its parcel of a kind and gives the answers as they come."""


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class Trust:
    """What the coordinator needs of the consortium: who is in it, and its own key."""

    charter: Charter
    signer: Signer


class MaskedSums:
    """The secure sum of one run."""

    def __init__(
        self,
        trust: Trust,
        plan: Plan,
        *,
        journal: SumJournal,
        check_window: int,
        clock: Callable[[], float] = time.time,
        threads: int = 1,
    ) -> None:
        """Go on where the journal ends.

        Args:
            trust: charter and the coordinator's key.
            plan: of the run.
            journal: of the run.
            check_window: rounds whose masked vectors are kept for recomputing the sum.
            clock: Unix time in seconds.
            threads: workers for the key streams.
        Raises:
            DataError: the journal is damaged.
        """
        self._trust, self._plan, self._journal = trust, plan, journal
        self._window, self._clock, self._threads = check_window, clock, threads
        self._run = journal.load_run(trust.charter, plan_sha256=plan.sha256)
        self._last: LastSum | None = None
        self._whole: set[int] = set()
        """Rounds whose kept result was read and is right."""
        if self._run is not None and (kept := journal.results()):
            self._last = LastSum.of(kept[-1], self._read(kept[-1])[1])

    def lists(self, site: str) -> bool:
        """Whether the charter lists a site of this name."""
        return any(member.id == site for member in self._trust.charter.sites)

    def has_keys(self, site: str) -> bool:
        """Whether a site of this name took part in set-up."""
        members = () if self._run is None else self._run.members
        return any(self._trust.charter.sites[number].id == site for number in members)

    @property
    def floors(self) -> Floors:
        """Give the floors of the charter."""
        return self._trust.charter.floors

    @property
    def is_set_up(self) -> bool:
        """Whether the sites share keys."""
        return self._run is not None

    def agree_keys(self, sites: Collection[str], ask: Ask) -> None:
        """Run set-up; a site that stops answering is left out of the next try, unless too few would be left.

        A site that was restarted during the first try has forgotten it, says so, and is in the second. Once only: it
        may not make try after try fail.

        Raises:
            RoundAborted: too few sites, or none of the tries ended with keys.
        """
        left, why = set(sites), ""
        for attempt in range(1, MOST_SETUPS + 1):
            relay = SetupRelay(
                charter=self._trust.charter,
                signer=self._trust.signer,
                run=bytes.fromhex(self._plan.sha256),
                attempt=attempt,
            )
            talk = _SetupTalk(relay, self._trust.charter, self._plan, ask=ask)
            try:
                run = talk.hold(left)
            except RoundAborted as err:
                why = str(err)
            else:
                if attempt > 1 or not talk.forgot:
                    self._run = run
                    self._journal.save_run(run, plan_sha256=self._plan.sha256)
                    return
                why = f"set-up: {', '.join(sorted(talk.forgot))} restarted meanwhile"
            kept = left - (talk.lost - talk.forgot if attempt == 1 else talk.lost)
            if len(kept) >= talk.needed(members=len(kept)):
                left = kept
        raise RoundAborted(f"set-up ended without keys after {MOST_SETUPS} tries; the last: {why}")

    def desk(self, query: Query, *, wait_s: float) -> MaskedDesk:
        """Begin a round; its number is used up, durably.

        Args:
            query: of the round.
            wait_s: how long READY and REPORT may take together; afterwards no site masks.
        """
        run = self._required_run()
        round_ = self._journal.next_round(number=query.round, attempt=query.attempt)
        deadline = int(self._clock() + wait_s) + 1
        header = header_of(self._plan, query, run, round_=round_, last=self._last, deadline=deadline)
        return MaskedDesk(
            self._plan,
            query,
            desk=SumRound(run=run, signer=self._trust.signer, header=header, threads=self._threads),
            header=header,
            run=run,
            journal=self._journal,
            previous=self._last,
        )

    def finished(self, desk: MaskedDesk) -> None:
        """Build the next round on this one's sum, and end the check windows that are over."""
        if desk.opened is None:
            raise AssertionError("only a round that was opened can be built upon")
        self._last = desk.opened
        self._whole.add(desk.opened.kept.round)
        self._journal.end_windows(keep=self._window)

    def recovered(self, *, after: int) -> list[Outcome]:
        """Give the rounds later than `after` that have a result, for a coordinator that stopped before it used them.

        What was known of sites that dropped out, and of bytes, is gone; who is in the sum stands in the result.
        """
        outcomes = []
        for kept in self._journal.results():
            if kept.number > after:
                _, result = self._read(kept)
                survivors = tuple(self._trust.charter.sites[n].id for n in result.sites)
                state = Round(
                    number=kept.number,
                    attempt=1,
                    cohort=tuple(sorted(kept.roster)),
                    phases=MASKED,
                    phase=Phase.SUMMED,
                    answers={Phase.READY: kept.roster, Phase.REPORT: survivors},
                    lost=dict.fromkeys(sorted(set(kept.roster) - set(survivors)), Loss.SILENT),
                )
                opened = read_opened(result, self._plan, self._trust.charter, number=kept.number)
                outcomes.append(Outcome(state=state, opened=opened, bytes_out={}))
        return outcomes

    def missed(self, site: str) -> list[Parcel]:
        """Give the results that a site lacks besides the last one, oldest first.

        A site that was in the roster of a round has checked everything before that round.
        """
        kept = self._journal.results()
        had = max((i for i, result in enumerate(kept) if site in result.roster), default=0)
        return [self._result_parcel(r.number, self._packed(r), adapter_sha256="") for r in kept[had:-1]]

    def closing(self, *, adapter_sha256: str) -> Parcel | None:
        """Give the last result with the adapter that is published; None where no round had a sum."""
        if self._last is None:
            return None
        last = self._last.kept
        return self._result_parcel(last.number, self._packed(last), adapter_sha256=adapter_sha256)

    def found_right(self, site: str, answer: Parcel, *, adapter_sha256: str) -> bool:
        """Read a site's verdict on the last result and the adapter that is published, and keep it.

        Raises:
            WireError: not a verdict of this site on that result and that adapter.
        """
        run = self._required_run()
        if wire.decode(answer.header, wire.Checked).site != site or self._last is None:
            raise WireError("checked: speaks of another site than the one asked")
        (verdict,) = read_from_sites(Verdict, [unpack(Signed, answer.note)], run)
        about = (verdict.site, verdict.result, verdict.model)
        if about != (run.charter.number_of(site), self._last.hash, model_hash(adapter_sha256)):
            raise WireError("checked: found a verdict of another site, result or adapter")
        self._journal.keep_verdict(site=verdict.site, message=answer.note)
        return verdict.verdict == 1

    def _result_parcel(self, number: int, packed: bytes, *, adapter_sha256: str) -> Parcel:
        header = wire.Result(plan_sha256=self._plan.sha256, summed=number, adapter_sha256=adapter_sha256)
        return Parcel(header=wire.encode(header), note=packed)

    def _packed(self, kept: KeptResult) -> bytes:
        """Give a kept result for sending; it is checked the first time."""
        return self._journal.read(kept) if kept.round in self._whole else self._read(kept)[0]

    def _read(self, kept: KeptResult) -> tuple[bytes, OpenedSum]:
        """Read a kept result.

        Raises:
            DataError: it is not the one that was kept.
        """
        run, packed = self._required_run(), self._journal.read(kept)
        try:
            result = read_result(packed, run=run, floors=run.charter.floors)
        except (WireError, Refused) as err:
            raise self._journal.damaged_result(kept) from err
        if (result.header.round, result.header.query) != (kept.round, query_hash(self._plan, number=kept.number)):
            raise self._journal.damaged_result(kept)
        self._whole.add(kept.round)
        return packed, result

    def _required_run(self) -> RunFacts:
        if self._run is None:
            raise AssertionError("set-up comes before the first round")
        return self._run


class _SetupTalk:
    """One try of set-up, message by message."""

    def __init__(self, relay: SetupRelay, charter: Charter, plan: Plan, *, ask: Ask) -> None:
        self._relay, self._charter, self._plan, self._ask = relay, charter, plan, ask
        self._last = -1
        self.lost: set[str] = set()
        self.forgot: set[str] = set()
        """Of the lost ones, those that say they know of no set-up."""

    def needed(self, *, members: int) -> int:
        """Sites that have to have keys for a sum to be possible."""
        return smallest_roster(self._charter.floors, plan_minimum=self._plan.minimum_cohort, members=members)

    def hold(self, sites: Collection[str]) -> RunFacts:
        """Carry it out among `sites`.

        Raises:
            RoundAborted: a message is missing; no keys were agreed, or too few sites have them.
        """
        relay = self._relay
        members = self._step("begin", dict.fromkeys(sites, relay.begin()), take=relay.add_bundle)
        self._require(len(members), members=len(members), did="answered")
        self._last = max(map(self._charter.number_of, members))
        self._step("pair", dict.fromkeys(members, relay.bundles()), take=relay.add_pairings)
        by_number = relay.pairings()
        mine = {site: by_number[self._charter.number_of(site)] for site in members}
        self._step("reveal", mine, take=relay.add_reveal)
        finished = self._step("finish", dict.fromkeys(members, relay.reveals()), take=None)
        self._require(len(finished), members=len(members), did="finished")
        return relay.finish()

    def _require(self, got: int, *, members: int, did: str) -> None:
        if got < (needed := self.needed(members=members)):
            raise RoundAborted(f"set-up: {got} sites {did}, {needed} needed; no round was opened")

    def _step(
        self, step: wire.KeyStep, notes: Mapping[str, bytes], *, take: Callable[[bytes], int | None] | None
    ) -> set[str]:
        """Send a step to its sites; give those whose answer was taken, and note the others as lost."""
        header = wire.encode(wire.Keys(plan_sha256=self._plan.sha256, step=step))
        taken: set[str] = set()
        for site, answer in self._ask({s: Parcel(header=header, note=note) for s, note in notes.items()}, "keys"):
            if not isinstance(answer, Loss) and self._take(site, step, answer, take):
                taken.add(site)
        self.lost |= set(notes) - taken
        return taken

    def _take(self, site: str, step: wire.KeyStep, answer: Parcel, take: Callable[[bytes], int | None] | None) -> bool:
        try:
            if wire.kind_of(answer.header) == wire.Refuse.kind:
                if wire.decode(answer.header, wire.Refuse) == wire.Refuse(site=site, code="state"):
                    self.forgot.add(site)
                return False
            if wire.decode(answer.header, wire.Keyed) != wire.Keyed(site=site, step=step):
                return False
            own = self._charter.number_of(site)
            number = own if take is None else take(answer.note)
        except WireError:
            return False
        # Only the last site has no pairings to send.
        return number == own or (number is None and own == self._last)
