"""The coordinator of one run: proposes the plan, asks queries, adds up what comes back.

It drives the pure round machine with what the exchange delivers. Values of single sites pass through it only as sealed
words on their way into the sum.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from partsong.common import events, wire
from partsong.common.adapter import FloatVec, digest
from partsong.common.build import to_tree
from partsong.common.errors import PartsongError, WireError
from partsong.common.fixed_point import SumOutOfRange
from partsong.common.plan import Plan, rotation_seed
from partsong.server import rounds
from partsong.server.aggregate import Accumulator, Opened
from partsong.server.exchange import Exchange, Parcel
from partsong.server.rounds import Loss, Phase, Round


class RunNotStarted(PartsongError):
    """Too few sites accepted the plan; no record was read."""


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
    """Bytes that left each site that reported."""


class Coordinator:
    """Runs rounds of one plan over an exchange."""

    def __init__(self, exchange: Exchange, plan: Plan, *, timeout_s: float, listen: events.Listener) -> None:
        """Prepare; nothing is sent yet.

        Args:
            exchange: carries the messages.
            plan: what the sites are asked to agree to.
            timeout_s: how long a phase waits for its sites.
            listen: told what happens.
        """
        self._exchange, self._plan, self._timeout_s, self._listen = exchange, plan, timeout_s, listen
        self._address: dict[str, int] = {}

    @property
    def sites(self) -> tuple[str, ...]:
        """The sites that accepted the plan, in order of their names."""
        return tuple(sorted(self._address))

    def propose(self, frozen_F: FloatVec) -> tuple[str, ...]:
        """Send the plan to every site and note who accepts.

        Raises:
            RunNotStarted: fewer acceptances than the floor, naming refusals by their code.
        """
        parcel = Parcel(header=wire.encode(wire.Propose(plan=self._plan)), vector=wire.vector_bytes(frozen_F))
        refused: list[str] = []
        everybody = self._exchange.addresses()
        for address, answer in self._ask(dict.fromkeys(everybody, parcel), phase="propose"):
            if why_not := self._enrol(address, answer):
                refused.append(why_not)
        if len(self._address) < self._plan.minimum_cohort:
            why = f" ({'; '.join(sorted(refused))})" if refused else ""
            raise RunNotStarted(
                f"run {self._plan.run}: {len(self._address)} of {len(everybody)} sites accepted the plan, "
                f"{self._plan.minimum_cohort} needed{why}; no record was read"
            )
        self._listen(events.RunStarted(run=self._plan.run, sites=self.sites, rounds=self._plan.rounds))
        return self.sites

    def run(self, query: Query) -> Outcome:
        """Carry out one round: OPEN and READY, ROSTER and REPORT.

        Guarantees:
            - the sum has at least the plan's floor of summands, or there is none;
            - a site that fails, is silent or answers nonsense is left out and named;
            - words that are no encoded vector end the round, not the run. Whose they were cannot be told from a sum.
        """
        state = Round(number=query.round, attempt=query.attempt, cohort=self.sites, minimum=self._plan.minimum_cohort)
        self._listen(events.RoundOpened(round=query.round, sites=state.cohort))
        state = rounds.close_opened(self._gather_ready(state, query))
        if state.phase is Phase.ABORTED:
            return self._abandoned(state)
        total = Accumulator(encoding=self._plan.encoding)
        rostered, bytes_out = self._gather_reports(state, total)
        state = rounds.close_rostered(rostered)
        if state.phase is Phase.ABORTED:
            return self._abandoned(state)
        seed = rotation_seed(self._plan.sha256, number=query.round, attempt=query.attempt)
        try:
            opened = total.open(rotation_seed=seed)
        except SumOutOfRange:
            return self._abandoned(rounds.void(rostered))
        return Outcome(state=state, opened=opened, bytes_out=bytes_out)

    def _gather_ready(self, state: Round, query: Query) -> Round:
        header = wire.Open(
            plan_sha256=self._plan.sha256,
            round=query.round,
            attempt=query.attempt,
            adapter_sha256=digest(query.adapter_P),
        )
        parcel = Parcel(header=wire.encode(header), vector=wire.vector_bytes(query.adapter_P))

        def take(state: Round, site: str, answer: Parcel) -> Round:
            self._matches(wire.decode(answer.header, wire.Ready), site, state)
            self._listen(events.SiteReady(round=state.number, site=site))
            return rounds.ready(state, site)

        return self._gather(state, state.cohort, parcel, phase="open", take=take)

    def _gather_reports(self, state: Round, total: Accumulator) -> tuple[Round, dict[str, int]]:
        header = wire.Roster(
            plan_sha256=self._plan.sha256, round=state.number, attempt=state.attempt, sites=state.roster
        )
        bytes_out: dict[str, int] = {}

        def take(state: Round, site: str, answer: Parcel) -> Round:
            self._matches(wire.decode(answer.header, wire.Report), site, state)
            total.add(answer.vector)
            bytes_out[site] = answer.size
            self._listen(events.SiteReported(round=state.number, site=site, bytes_out=answer.size))
            return rounds.reported(state, site)

        state = self._gather(state, state.roster, Parcel(header=wire.encode(header)), phase="roster", take=take)
        return state, bytes_out

    def _gather(
        self,
        state: Round,
        sites: tuple[str, ...],
        parcel: Parcel,
        *,
        phase: str,
        take: Callable[[Round, str, Parcel], Round],
    ) -> Round:
        """Ask `sites` and let `take` turn each good answer into the next state; everything else loses the site."""
        names = {self._address[s]: s for s in sites}
        for address, answer in self._ask(dict.fromkeys(names, parcel), phase=phase):
            site, why = names[address], None
            try:
                if isinstance(answer, Loss):
                    why = answer
                elif wire.kind_of(answer.header) == wire.Refuse.kind:
                    why = Loss.REFUSED
                else:
                    state = take(state, site, answer)
            except WireError:
                why = Loss.MALFORMED
            if why is not None:
                state = rounds.lost(state, site, why)
                self._listen(events.SiteLost(round=state.number, site=site, why=why.value))
        for site in state.waiting:
            self._listen(events.SiteLost(round=state.number, site=site, why=Loss.SILENT.value))
        return state

    def _ask(self, parcels: dict[int, Parcel], *, phase: str) -> Iterator[tuple[int, Parcel | Loss]]:
        return self._exchange.ask(parcels, phase=phase, timeout_s=self._timeout_s)

    def _enrol(self, address: int, answer: Parcel | Loss) -> str:
        """Note an acceptance; otherwise say why there is none."""
        if isinstance(answer, Loss):
            return answer.value
        try:
            if wire.kind_of(answer.header) == wire.Refuse.kind:
                refusal = wire.decode(answer.header, wire.Refuse)
                return f"{refusal.site}: {refusal.code}"
            accept = wire.decode(answer.header, wire.Accept)
        except WireError:
            return Loss.MALFORMED.value
        if accept.plan_sha256 != self._plan.sha256:
            return f"{accept.site}: accepted another plan"
        if accept.site in self._address:
            return f"{accept.site}: its name is taken"
        if len(self._address) >= self._plan.encoding.max_sites:
            return f"{accept.site}: a sum holds {self._plan.encoding.max_sites} sites at most"
        self._address[accept.site] = address
        return ""

    def _abandoned(self, state: Round) -> Outcome:
        self._listen(events.RoundAbandoned(round=state.number, reason=state.reason))
        return Outcome(state=state, opened=None, bytes_out={})

    @staticmethod
    def _matches(answer: wire.Ready | wire.Report, site: str, state: Round) -> None:
        expected = {"site": site, "round": state.number, "attempt": state.attempt}
        if to_tree(answer) != expected:
            raise WireError(f"{answer.kind}: speaks of another site or round than the one asked")
