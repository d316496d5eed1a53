"""The site's side of a round: OPEN, READY, ROSTER, REPORT, CONFIRM, UNMASK, RESULT.

Covers: against a coordinator that lies, together with up to `corrupt_tolerance` sites, a vector given to `report`
is opened only as part of one sum over at least quorum - corrupt_tolerance honest sites, or not at all.
Does not cover: what the sum itself says about a site (differential privacy does), a second vector that the caller
gives for the same update (the caller uses an update once), and availability.

Whatever must not be forgotten is in the vault before a byte is sent; the same message gets the same answer, also
after a crash. A message that does not fit is refused and changes nothing.

Specification: PROTOCOL.md sections 6 to 9.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from partsong.client.secure_sum import history, masking, site_state
from partsong.client.secure_sum.site_state import SiteState, Stage
from partsong.client.secure_sum.survivor_set import SurvivorSet, open_bundles, read_request, shares_to_give
from partsong.client.secure_sum.vault import Vault
from partsong.common.codec import pack, unpack
from partsong.common.derive import digest
from partsong.common.errors import Refused, WireError
from partsong.common.identity.charter import Charter, effective_floors
from partsong.common.identity.keys import Signer
from partsong.common.secure_sum import transcript
from partsong.common.secure_sum.fixed_point import WordVec
from partsong.common.secure_sum.merkle import root_of
from partsong.common.secure_sum.messages import (
    Confirm,
    Header,
    Message,
    Open,
    Quorum,
    Ready,
    Report,
    ReportHeader,
    Roster,
    Signed,
    Unmask,
    Verdict,
    open_signed,
    sign,
)
from partsong.common.secure_sum.pairwise import advance
from partsong.common.secure_sum.result import OpenedSum, words_to_bytes
from partsong.common.secure_sum.shamir import Entropy
from partsong.common.thresholds import Floors

T = TypeVar("T", bound=Message)

_REPORT, _SURVIVORS = "report", "survivors"


@dataclass(frozen=True, kw_only=True, slots=True)
class Opened:
    """A round that started."""

    header: Header
    previous: OpenedSum | None
    """The previous result, where the message carried it."""
    previous_fits: bool
    """Whether its tag is right, or there is none. Where it is not, this site will not enter a roster."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Entered:
    """A roster that this site accepted."""

    context: bytes
    roster: tuple[int, ...]


class SecureSumSite:
    """One site in one run."""

    def __init__(
        self,
        *,
        charter: Charter,
        signer: Signer,
        floors: Floors,
        vault: Vault,
        entropy: Entropy,
        clock: Callable[[], float],
        threads: int = 1,
    ) -> None:
        """Continue the run in `vault`, at its start or after a crash.

        Args:
            charter: pinned, with checked signatures.
            signer: with this site's identity key.
            floors: of this site's own policy; the charter's apply as well.
            vault: with the keys of set-up.
            entropy: secret uniform bytes, in production `os.urandom`.
            clock: Unix time in seconds.
            threads: workers for the key streams.
        Raises:
            Refused: no run under this charter, or a policy that the charter cannot keep.
        """
        self._floors = effective_floors(charter, policy=floors)
        self._charter, self._signer, self._vault = charter, signer, vault
        self._entropy, self._clock, self._threads = entropy, clock, threads
        self._state = site_state.load(vault, charter=charter)
        self._run = self._state.facts(charter)

    @property
    def stage(self) -> Stage:
        """How far the current round is."""
        return Stage(self._state.stage)

    @property
    def run(self) -> transcript.RunFacts:
        """What is public about the run."""
        return self._run

    def open(self, message: bytes) -> Opened:
        """Take an OPEN: check the previous result and move the pair keys to the new round.

        The caller checks model, query and encoding, and the published adapter against the returned sum, and then
        calls `ready`. Whatever the current round was, it ends here for this site.

        Raises:
            WireError: not an OPEN of this run's coordinator; it was dropped.
            Refused: an old round, a past deadline, or a history that is not this site's.
            RoundAborted: a leap of more than 64 rounds.
        """
        opened = unpack(Open, message)
        header = transcript.read_header(opened.header, self._run)
        again = self._state.stage in (Stage.OPENED, Stage.READY) and opened.header.body == self._state.header.body
        if not again and header.round <= self._state.round:
            raise Refused("old_round", reason=f"round {header.round} is not new", remedy="open a later round")
        self._require_time(header)
        known, previous = history.follow(header, opened.result, state=self._state, run=self._run)
        if not again:
            moved = self._ratcheted(known, rounds=header.round - known.key_round)
            self._keep(replace(moved, stage=Stage.OPENED, round=header.round, header=opened.header, reply=b""))
            self._forget_round()
        return Opened(header=header, previous=previous, previous_fits=bool(self._state.verdict))

    def ready(self, *, verdict: bool, ledger: bytes = bytes(32)) -> bytes:
        """Give the READY of the open round.

        Args:
            verdict: what the application found about the previous result: whether the published adapter follows
                from its sum. A wrong tag overrules it. Said once for each result.
            ledger: digest of the newest entry of the site's ledger, which its peers will have seen; zeros for none.
        Raises:
            Refused: no round is open.
        """
        if self._state.stage == Stage.READY:
            return self._state.reply
        self._require_stage(Stage.OPENED)
        found = int(verdict and bool(self._state.verdict))
        named = transcript.header_hash(self._state.header)
        ready = Ready(header=named, site=self._state.site, verdict=found, ledger=ledger)
        return self._answer(ready, replace(self._state, stage=Stage.READY, verdict=found))

    def enter(self, message: bytes) -> Entered:
        """Take a ROSTER.

        Raises:
            WireError: not a roster of this round, or with a READY that is not signed by its site; it was dropped.
            Refused: this site is missing, too few sites or share holders, too few that found the previous result
                right, a revoked site, or a roster that differs from the last in a way that could single a site out.
        """
        roster = self._from_coordinator(Roster, message)
        if roster.header != transcript.header_hash(self._state.header):
            raise WireError("message roster: found another round's; it was dropped")
        context = transcript.context_of(self._state.header, roster.readys)
        if self._state.stage in (Stage.ENTERED, Stage.MASKING, Stage.REPORTED) and context == self._state.context:
            return self._entered()
        self._require_stage(Stage.READY)
        readys = transcript.read_roster(self._state.header, roster.readys, self._run)
        if unpack(Signed, self._state.reply) not in roster.readys:
            raise Refused("own_ready", reason="this site's READY is missing or changed", remedy="send the right roster")
        transcript.require_cohort(readys, floors=self._floors)
        transcript.require_accepted_result(readys, floors=self._floors)
        history.require_own_verdict(self._state)
        sites = [ready.site for ready in readys]
        transcript.require_holders(sites, roster=sites, run=self._run)
        history.require_membership(sites, state=self._state, header=self._header(), floors=self._floors)
        self._require_time(self._header())
        self._keep(replace(self._state, stage=Stage.ENTERED, context=context, readys=roster.readys))
        return self._entered()

    def report(self, words: WordVec) -> bytes:
        """Mask one encoded vector and give the REPORT. The vector is used up, whatever happens next.

        Calling it again gives the same bytes, and does not look at `words`.

        Args:
            words: (W,) of `fixed_point.encode`, for the sites of this roster; stays as it is.
        Raises:
            Refused: no roster, a past deadline, or a crash between masking and journal: this site drops out.
        """
        if self._state.stage in (Stage.MASKING, Stage.REPORTED, Stage.CONFIRMED):
            return self._stored_report()
        self._require_stage(Stage.ENTERED)
        header = self._header()
        if words.shape != (header.words,) or words.dtype != np.uint64:
            raise Refused("vector_size", reason="another size than the round's", remedy="encode as the plan says")
        self._require_time(header)
        self._keep(replace(self._state, stage=Stage.MASKING, last_roster=self._roster()))
        masked_W, bundles = self._mask(words)
        data = words_to_bytes(masked_W)
        report_header = ReportHeader(
            context=self._state.context,
            site=self._state.site,
            vector=root_of(data),
            bundles=digest("bundles", *bundles),
        )
        signed = sign(report_header, self._signer)
        report = pack(Report(header=signed, bundles=bundles, words=data))
        self._vault.write(_REPORT, report)
        self._keep(replace(self._state, stage=Stage.REPORTED, report=signed))
        return report

    def confirm(self, message: bytes) -> bytes:
        """Take the survivors and give a CONFIRM, for one survivor set only.

        A site that holds no shares is done with it: it erases the keys of the round and is not asked for UNMASK.

        Raises:
            WireError: a report is not of this context and roster, or not signed by its site; it was dropped.
            Refused: this site is missing, too few survivors, a revoked one, another set than the one it signed, or a
                bundle that does not open; nothing was signed.
        """
        if self._state.stage == Stage.MASKING:
            # After a crash: the report may be whole although the state does not say so.
            self._stored_report()
        answered = Stage.CONFIRMED if self._holds_shares() else Stage.DONE
        if self._state.stage != answered:
            self._require_stage(Stage.REPORTED)
        survivors = self._survivor_set(message)
        if self._state.stage == answered:
            if survivors.hash != self._state.survivors:
                raise Refused("second_survivor_set", reason="another set was confirmed", remedy="send that one")
            return self._state.reply
        history.require_unrevoked(survivors.sites, state=self._state)
        if self._state.report.body not in survivors.reports:
            raise Refused("own_report", reason="this site's report is missing or changed", remedy="put it in unchanged")
        confirm = Confirm(context=self._state.context, survivors=survivors.hash, site=self._state.site)
        confirmed = replace(self._state, stage=Stage.CONFIRMED, survivors=survivors.hash)
        if not self._holds_shares():
            return self._finish(confirm, confirmed)
        open_bundles(survivors, state=self._state, roster=self._roster())
        self._vault.write(_SURVIVORS, message)
        return self._answer(confirm, confirmed)

    def unmask(self, message: bytes) -> bytes:
        """Take a quorum of CONFIRMs, give the shares and erase the keys of the round.

        Raises:
            WireError: a confirmation is of another set, or not signed by its site; no share was given.
            Refused: too few confirmations, or this site holds no shares; no share was given.
        """
        quorum = self._from_coordinator(Quorum, message)
        if quorum.context != self._state.context:
            raise WireError("message quorum: found another context's; it was dropped")
        if not self._holds_shares():
            raise Refused("no_shares", reason="this site holds no shares", remedy="ask the sites that do")
        if self._state.stage == Stage.DONE:
            return self._state.reply
        self._require_stage(Stage.CONFIRMED)
        survivors = self._survivor_set(self._record(_SURVIVORS))
        transcript.require_quorum(
            quorum.confirms,
            context=self._state.context,
            survivors=self._state.survivors,
            survivor_sites=survivors.sites,
            roster=len(self._roster()),
            floors=self._floors,
            run=self._run,
        )
        given = shares_to_give(survivors, state=self._state, roster=self._roster())
        unmask = Unmask(context=self._state.context, site=self._state.site, shares=given)
        return self._finish(unmask, self._state)

    def close(self, message: bytes, *, verdict: Callable[[OpenedSum], bool], model: bytes = bytes(32)) -> bytes:
        """Take the last RESULT of a run outside a new round and give a signed VERDICT on it.

        Args:
            message: a packed result.
            verdict: what the application finds about it, as in `ready`; not asked about words whose tag is wrong.
            model: 32 bytes that name what the verdict says follows from it; zeros where another result comes next.
        Raises:
            WireError: malformed, unsigned or of another run; it was dropped.
            Refused: floors or quorum are missed, or it is older than one that was checked.
        """
        known, result = history.take_last(message, state=self._state, run=self._run)
        found = int(bool(known.verdict) and verdict(result))
        answer = Verdict(result=result.hash, model=model, site=self._state.site, verdict=found)
        self._keep(replace(known, verdict=found))
        return pack(sign(answer, self._signer))

    def revoke(self, message: bytes) -> None:
        """Take a REVOCATION, signed by the coordinator or by the site it names: it enters no more roster and no sum.

        Raises:
            WireError: signed by neither, of another run, or naming no member; nothing changed.
        """
        self._keep(history.revoke(message, state=self._state, run=self._run))

    def _survivor_set(self, message: bytes) -> SurvivorSet:
        return read_request(
            message, state=self._state, roster=self._roster(), header=self._header(), run=self._run, floors=self._floors
        )

    def _stored_report(self) -> bytes:
        """Give the report of this context from the vault, and note that it is whole."""
        stored = self._vault.read(_REPORT)
        if self._state.stage == Stage.MASKING:
            signed = None if stored is None else unpack(Report, stored).header
            # A report of an earlier round is left there if a crash came before it was erased.
            if signed is None or unpack(ReportHeader, signed.body).context != self._state.context:
                raise Refused(
                    "unfinished_report",
                    reason="masking was begun before a crash and its result is not complete",
                    remedy="go on without this site; nothing is masked twice",
                )
            self._keep(replace(self._state, stage=Stage.REPORTED, report=signed))
        return self._record(_REPORT)

    def _record(self, name: str) -> bytes:
        stored = self._vault.read(name)
        if stored is None:
            raise Refused("lost_record", reason=f"the vault has no {name}", remedy="go on without this site")
        return stored

    def _mask(self, words: WordVec) -> tuple[WordVec, tuple[bytes, ...]]:
        roster = self._roster()
        return masking.mask(
            words,
            context=self._state.context,
            site=self._state.site,
            pair_keys={peer: key for peer, key in self._state.keys_by_peer().items() if peer in roster},
            group_key=self._state.group_key,
            holders=self._run.holders(roster),
            entropy=self._entropy,
            threads=self._threads,
        )

    def _ratcheted(self, state: SiteState, *, rounds: int) -> SiteState:
        keys = advance(state.keys_by_peer(), rounds=rounds)
        return replace(state, pair_keys=tuple(keys[peer] for peer in sorted(keys)), key_round=state.key_round + rounds)

    def _finish(self, message: Message, state: SiteState) -> bytes:
        """Give the last answer of a round and erase its keys and records."""
        answer = self._answer(message, self._ratcheted(replace(state, stage=Stage.DONE), rounds=1))
        self._forget_round()
        return answer

    def _holds_shares(self) -> bool:
        return self._state.site in self._run.holders(self._roster()).sites

    def _forget_round(self) -> None:
        self._vault.erase(_REPORT)
        self._vault.erase(_SURVIVORS)

    def _require_time(self, header: Header) -> None:
        if self._clock() > header.deadline:
            raise Refused("deadline", reason="the round's deadline has passed", remedy="open a new round")

    def _require_stage(self, stage: Stage) -> None:
        if self._state.stage != stage:
            raise Refused(
                "stage",
                reason=f"round {self._state.round} is {Stage(self._state.stage).name.lower()} here, "
                f"not {stage.name.lower()}",
                remedy="send the messages of a round in order",
            )

    def _from_coordinator(self, cls: type[T], message: bytes) -> T:
        return open_signed(cls, unpack(Signed, message), key=self._charter.coordinator_key)

    def _header(self) -> Header:
        return unpack(Header, self._state.header.body)

    def _roster(self) -> tuple[int, ...]:
        return tuple(unpack(Ready, ready.body).site for ready in self._state.readys)

    def _entered(self) -> Entered:
        context = self._state.context
        return Entered(context=context, roster=self._roster())

    def _answer(self, message: Message, after: SiteState) -> bytes:
        """Sign, make the state and the answer durable, and only then give it."""
        reply = pack(sign(message, self._signer))
        self._keep(replace(after, reply=reply))
        return reply

    def _keep(self, state: SiteState) -> None:
        site_state.save(state, self._vault)
        self._state = state
