"""The coordinator of one run: proposes the plan, asks queries, opens what comes back as one sum.

It drives the pure round machine with what the exchange delivers. Values of single sites pass through it only as sealed
words on their way into the sum.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

from partsong.common import events, wire
from partsong.common.adapters.adapter import FloatVec, digest
from partsong.common.errors import PartsongError, Refused, RoundAborted, WireError
from partsong.common.groups import asked_in
from partsong.common.plan import Plan
from partsong.common.secure_sum.fixed_point import SumOutOfRange
from partsong.common.secure_sum.length import SumTooLong
from partsong.common.thresholds import Floors, smallest_roster
from partsong.server import rounds
from partsong.server.cohort import cohort_of
from partsong.server.desk import Desk, Outcome, PlainDesk, Query
from partsong.server.exchange import Exchange, Parcel
from partsong.server.rounds import Loss, Phase, Round
from partsong.server.secure_sum.masked_sums import MaskedSums

_KIND = {Phase.READY: "open", Phase.REPORT: "roster", Phase.CONFIRM: "confirm", Phase.UNMASK: "unmask"}

_WELCOME_S = 30.0
"""Longest that a round waits for sites that come late."""


class RunNotStarted(PartsongError):
    """Too few sites accepted the plan or agreed on keys; no record was read."""


class Coordinator:
    """Runs rounds of one plan over an exchange."""

    def __init__(
        self,
        exchange: Exchange,
        plan: Plan,
        *,
        timeout_s: float,
        listen: events.Listener,
        sums: MaskedSums | None,
        sample: int | None = None,
        floors: Floors | None = None,
    ) -> None:
        """Prepare; nothing is sent yet.

        Args:
            exchange: carries the messages.
            plan: what the sites are asked to agree to.
            timeout_s: how long a phase waits for its sites.
            listen: told what happens.
            sums: the secure sum of the run; None for a plan without one.
            sample: sites that are asked in a round; None: all.
            floors: for a plan without a secure sum, those of the one whose place it takes; None: the plan's alone.
        """
        if (sums is not None) != plan.masked:
            raise ValueError("the secure sum for a masked plan, and for no other")
        self._exchange, self._plan, self._timeout_s, self._listen = exchange, plan, timeout_s, listen
        self._sums, self._sample, self._floors = sums, sample, floors
        self._address: dict[str, int] = {}
        self._adapter: Callable[[], tuple[FloatVec, FloatVec]] | None = None
        """As proposed."""
        self._strangers: set[int] = set()
        """Addresses that were asked since the beginning and take no part."""
        self._forgot: set[str] = set()
        """Sites that say they have no plan, as after a restart."""

    @property
    def sites(self) -> tuple[str, ...]:
        """The sites that accepted the plan, in order of their names."""
        return tuple(sorted(self._address))

    def propose(
        self, adapter: Callable[[], tuple[FloatVec, FloatVec]], *, expected: Collection[str] = ()
    ) -> tuple[str, ...]:
        """Send the plan to every site, note who accepts, and let them agree on keys.

        Guarantees: no keys are agreed on before everybody expected has accepted, so whoever accepts late, in another
            call, shares them too.
        Args:
            adapter: gives the adapter before the first round, trained and frozen part; asked whenever the plan is
                sent, also to a site that comes late.
            expected: sites without which the run does not start.
        Raises:
            RunNotStarted: fewer acceptances than the floor, naming refusals by their code, or not all that are
                expected, or no keys.
        """
        self._adapter = adapter
        parcel = self._proposal()
        refused: list[str] = []
        everybody = self._drawn_first() or self._exchange.addresses()
        answers = self._exchange.ask(dict.fromkeys(everybody, parcel), phase="propose", timeout_s=self._timeout_s)
        del parcel
        for address, answer in answers:
            if why_not := self._enrol(address, answer):
                refused.append(why_not)
        self._strangers = set(everybody) - set(self._address.values())
        if len(self._address) < self._plan.minimum_cohort:
            why = f" ({'; '.join(sorted(refused))})" if refused else ""
            raise RunNotStarted(
                f"run {self._plan.run}: {len(self._address)} of {len(everybody)} sites accepted the plan, "
                f"{self._plan.minimum_cohort} needed{why}; no record was read"
            )
        if missing := sorted(set(expected) - set(self._address)):
            self._listen(events.SitesAwaited(sites=self.sites, missing=tuple(missing)))
            raise RunNotStarted(
                f"run {self._plan.run}: {', '.join(missing)} did not accept the plan, expected by the job; "
                "no record was read"
            )
        self._require_groups()
        self._agree_keys()
        self._require_groups()
        self._listen(events.RunStarted(run=self._plan.run, sites=self.sites, rounds=self._plan.rounds))
        return self.sites

    def run(self, query: Query) -> Outcome:
        """Carry out one round.

        Guarantees:
            - the sum has at least the plan's floor of summands, or there is none;
            - a site that fails, is silent or answers nonsense is left out and named;
            - a site that was restarted takes part again from the round after the one that it missed, and so does one
              that shares keys but was not connected when the run began or went on;
            - words that are no encoded vector end the round, not the run. Whose they were cannot be told from a sum.
        """
        cohort = self._cohort(query.round)
        self._catch_up(cohort)  # before the desk, with which the round's deadline starts
        masked = None if self._sums is None else self._sums.desk(query, wait_s=2 * self._timeout_s)
        desk: Desk = masked or PlainDesk(self._plan, query, floors=self._floors, members=len(cohort))
        state = Round(number=query.round, attempt=query.attempt, cohort=cohort, phases=desk.phases)
        self._listen(events.RoundOpened(round=query.round, sites=state.cohort))
        bytes_out: dict[str, int] = {}
        try:
            for phase in desk.phases:
                self._listen(events.PhaseBegan(round=query.round, phase=phase.value))
                state = self._gather(state, desk, bytes_out)
                state = rounds.close(state, needed=desk.needed(phase))
                if state.phase is Phase.ABORTED:
                    return self._abandoned(state)
            opened = desk.open()
        except SumTooLong:
            why = f"the sum is longer than the clips of its {len(state.survivors)} sites allow"
            return self._abandoned(rounds.abort(state, why=why))
        except SumOutOfRange:
            why = f"the reports of {len(state.survivors)} sites are no sum"
            return self._abandoned(rounds.abort(state, why=why))
        except (RoundAborted, Refused) as err:
            return self._abandoned(rounds.abort(state, why=str(err)))
        if self._sums is not None and masked is not None:
            self._sums.finished(masked)
            if (disputed := masked.disputes()) is not None:
                self._listen(disputed)
        return Outcome(state=state, opened=opened, bytes_out={s: bytes_out[s] for s in state.survivors})

    def close(self, adapter_P: FloatVec) -> tuple[str, ...]:
        """Let every site check the last sum and the adapter that is published.

        Returns:
            the sites that found both right, by their signed word. Without the secure sum nobody can.
        """
        parcel = None if self._sums is None else self._sums.closing(adapter_sha256=digest(adapter_P))
        if self._sums is None or parcel is None:
            return ()
        self._catch_up(self.sites)
        right = []
        for site, answer in self._ask(dict.fromkeys(self.sites, parcel), "result"):
            try:
                if not isinstance(answer, Loss) and self._sums.found_right(
                    site, answer, adapter_sha256=digest(adapter_P)
                ):
                    right.append(site)
            except WireError:
                continue
        checked = tuple(sorted(right))
        self._listen(events.ResultChecked(sites=checked, of=len(self.sites)))
        return checked

    def _proposal(self) -> Parcel:
        """Write PROPOSE: made when it is needed, since it holds the adapter."""
        if self._adapter is None:
            raise AssertionError("a plan is proposed before anything else")
        start_P, frozen_F = self._adapter()
        vector = wire.vector_bytes(frozen_F) + wire.vector_bytes(start_P)
        return Parcel(header=wire.encode(wire.Propose(plan=self._plan)), vector=vector)

    def _agree_keys(self) -> None:
        if self._sums is None or self._sums.is_set_up:
            return
        try:
            self._sums.agree_keys(self.sites, self._ask)
        except RoundAborted as err:
            raise RunNotStarted(f"run {self._plan.run}: {err}; no record was read") from err

    def _require_groups(self) -> None:
        """Begin nothing where a group has too few sites for a sum: others would pay for steps that are not taken."""
        groups = self._plan.groups
        if groups is None or self._known():
            return
        floors = self._floors if self._sums is None else self._sums.floors
        needed = self._plan.minimum_cohort
        if floors is not None:
            needed = smallest_roster(floors, plan_minimum=needed, members=len(self._address))
        for group in groups.sites:
            there = [site for site in group if site in self._address and self._may_answer(site)]
            if len(there) < needed:
                raise RunNotStarted(
                    f"run {self._plan.run}: {len(there)} of the {len(group)} sites of a group ({', '.join(group)}) can "
                    f"take part, {needed} needed in each; no record was read"
                )

    def _may_answer(self, site: str) -> bool:
        """Whether a site that accepted has keys, once there are any."""
        return self._sums is None or not self._sums.is_set_up or self._sums.has_keys(site)

    def _known(self) -> dict[str, int]:
        """Address of every connected site by its name, where the plan need not reach a site before its first round.

        That is so in a run of samples without the secure sum, whose keys all sites agree on beforehand, and over a
        transport that knows who is connected.
        """
        if self._sample is None or self._sums is not None:
            return {}
        found = {self._exchange.site_at(address): address for address in self._exchange.addresses()}
        return {} if None in found else {name: address for name, address in found.items() if name is not None}

    def _drawn_first(self) -> tuple[int, ...]:
        """Addresses of the first round's sites; none, where everybody is asked at the beginning."""
        known = self._known()
        return tuple(known[name] for name in self._draw(known, number=1))

    def _draw(self, known: Iterable[str], *, number: int) -> tuple[str, ...]:
        names = asked_in(self._plan, number, sorted(known))
        if self._sample is None:
            return names
        return cohort_of(names, plan_sha256=self._plan.sha256, number=number, size=self._sample)

    def _cohort(self, number: int) -> tuple[str, ...]:
        """Say who is asked in a round, after the plan was sent to those of them that do not have it yet."""
        known = self._known()
        drawn = self._draw(known, number=number)
        self._welcome({known[name] for name in drawn} if known else set(self._exchange.addresses()))
        if not known:
            return self._draw(self.sites, number=number)
        return tuple(name for name in drawn if name in self._address)

    def _welcome(self, addresses: Collection[int]) -> None:
        """Send the plan to sites that have come since; of a masked run those that have keys can take part."""
        new = {a for a in addresses if self._may_come(a)} - set(self._address.values())
        if not new:
            return
        answers = self._exchange.ask(
            dict.fromkeys(sorted(new), self._proposal()), phase="propose", timeout_s=min(self._timeout_s, _WELCOME_S)
        )
        for address, answer in answers:
            if self._enrol(address, answer):
                continue
            site = next(name for name, where in self._address.items() if where == address)
            if self._sums is not None and not self._sums.has_keys(site):
                del self._address[site]
        self._strangers |= new - set(self._address.values())

    def _may_come(self, address: int) -> bool:
        """Whether the site at an address is worth asking: it is new, or known to have keys."""
        site = self._exchange.site_at(address)
        has_keys = site is not None and self._sums is not None and self._sums.has_keys(site)
        return has_keys or address not in self._strangers

    def _catch_up(self, sites: Collection[str]) -> None:
        """Send each of these sites what it lacks: the plan if it forgot it, and the results that it missed, in order.

        What it answers is heard in the next READY. A site that is silent is sent no more: it would cost every other
        site a time limit for each result.
        """
        forgot, self._forgot = self._forgot, set()
        if forgot:
            for _ in self._ask(dict.fromkeys(sorted(forgot), self._proposal()), "propose"):
                pass
        missed = {} if self._sums is None else {site: self._sums.missed(site) for site in sites}
        for place in range(max(map(len, missed.values()), default=0)):
            due = {site: parcels[place] for site, parcels in missed.items() if place < len(parcels)}
            heard = {site for site, answer in self._ask(due, "result") if not isinstance(answer, Loss)}
            missed = {site: missed[site] for site in due if site in heard}

    def _gather(self, state: Round, desk: Desk, bytes_out: dict[str, int]) -> Round:
        """Ask the sites of the present phase and take what they answer; everything else loses the site."""
        phase = state.phase
        parcels = desk.parcels(phase, state.asked)
        state = rounds.ask_only(state, parcels)
        for site, answer in self._ask(parcels, _KIND[phase]):
            why = self._taken(desk, phase, site, answer)
            if why is None and isinstance(answer, Parcel):
                bytes_out[site] = bytes_out.get(site, 0) + answer.size
                state = rounds.answered(state, site, phase=phase)
                self._tell(state, site, phase, size=answer.size)
            elif why is not None:
                state = rounds.lost(state, site, why)
                self._listen(events.SiteLost(round=state.number, site=site, why=why.value))
        for site in state.waiting:
            self._listen(events.SiteLost(round=state.number, site=site, why=Loss.SILENT.value))
        return state

    def _taken(self, desk: Desk, phase: Phase, site: str, answer: Parcel | Loss) -> Loss | None:
        """Take an answer, or say why it cannot be taken."""
        if isinstance(answer, Loss):
            return answer
        try:
            if wire.kind_of(answer.header) == wire.Refuse.kind:
                if wire.decode(answer.header, wire.Refuse).code == "state":
                    self._forgot.add(site)
                return Loss.REFUSED
            desk.take(phase, site, answer)
        except WireError:
            return Loss.MALFORMED
        return None

    def _tell(self, state: Round, site: str, phase: Phase, *, size: int) -> None:
        if phase is Phase.READY:
            self._listen(events.SiteReady(round=state.number, site=site))
        elif phase is Phase.REPORT:
            self._listen(events.SiteReported(round=state.number, site=site, bytes_out=size))

    def _ask(self, parcels: Mapping[str, Parcel], kind: str) -> Iterator[tuple[str, Parcel | Loss]]:
        names = {self._address[site]: site for site in parcels}
        by_address = {self._address[site]: parcel for site, parcel in parcels.items()}
        if not by_address:
            return
        for address, answer in self._exchange.ask(by_address, phase=kind, timeout_s=self._timeout_s):
            yield names[address], answer

    def _enrol(self, address: int, answer: Parcel | Loss) -> str:
        """Note an acceptance; otherwise say why there is none."""
        if isinstance(answer, Loss):
            return answer.value
        try:
            if wire.kind_of(answer.header) == wire.Refuse.kind:
                refusal = wire.decode(answer.header, wire.Refuse)
                site = self._exchange.site_at(address) or refusal.site
                self._listen(events.SiteRefused(site=site, code=refusal.code))
                return f"{site}: {refusal.code}"
            accept = wire.decode(answer.header, wire.Accept)
        except WireError:
            return Loss.MALFORMED.value
        if accept.plan_sha256 != self._plan.sha256:
            return f"{accept.site}: accepted another plan"
        if self._exchange.site_at(address) not in (None, accept.site):
            return f"{accept.site}: is another site's name"
        if accept.site in self._address:
            return f"{accept.site}: its name is taken"
        if self._sums is not None and not self._sums.lists(accept.site):
            return f"{accept.site}: is not in the charter"
        if self._sample is None and len(self._address) >= self._plan.encoding.max_sites:
            return f"{accept.site}: a sum holds {self._plan.encoding.max_sites} sites at most"
        self._address[accept.site] = address
        return ""

    def _abandoned(self, state: Round) -> Outcome:
        self._listen(events.RoundAbandoned(round=state.number, reason=state.reason))
        return Outcome(state=state, opened=None, bytes_out={})
