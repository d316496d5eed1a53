"""A masked federation in memory: the real coordinator and the real doors, with made-up updates in place of a model."""

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from partsong.client.rules.consent import NotAgreed
from partsong.client.seal import seal
from partsong.client.secure_sum.masked_door import MaskedDoor, Membership
from partsong.common import events, wire
from partsong.common.adapters.adapter import FloatVec
from partsong.common.adapters.methods import ServerState
from partsong.common.errors import PartsongError, Refused
from partsong.common.plan import LOSS, UPDATE, Plan
from partsong.common.secure_sum.opened import Opened, read_sum
from partsong.common.thresholds import Floors
from partsong.server.coordinator import Coordinator
from partsong.server.desk import Outcome, Query
from partsong.server.exchange import Parcel
from partsong.server.rounds import Loss
from partsong.server.secure_sum.masked_sums import MaskedSums, Trust
from partsong.server.secure_sum.sum_journal import SumJournal
from partsong.server.studies.train import step_of
from partsong.simulations.secure_sum import found

START_P = np.zeros(8, np.float32)
FROZEN_F = np.zeros(6, np.float32)


class Killed(BaseException):
    """Stands for kill -9: nothing of the product may catch it."""


class DyingVault:
    """A vault whose process can be killed right before or right after one of its writes."""

    def __init__(self) -> None:
        self.records: dict[str, bytes] = {}
        self.writes = 0
        self.dies_at: tuple[int, bool] | None = None
        """Number of the write, and whether it is done."""

    def read(self, name: str) -> bytes | None:
        return self.records.get(name)

    def write(self, name: str, data: bytes) -> None:
        self._act(lambda: self.records.update({name: data}))

    def erase(self, name: str) -> None:
        self._act(lambda: self.records.pop(name, None))

    def _act(self, act: Callable[[], object]) -> None:
        self.writes += 1
        if self.dies_at == (self.writes, False):
            raise Killed
        act()
        if self.dies_at == (self.writes, True):
            raise Killed


class Hand:
    """A site's process: what `Site` does, in its order, without a model and a ledger."""

    def __init__(self, made: "Wired", name: str) -> None:
        self.made, self.name = made, name
        self.door = MaskedDoor(
            made.members[name], name=name, copy=made.folder / f"{name}.safetensors", entropy=os.urandom,
            clock=lambda: made.now,
        )  # fmt: skip
        self.plan: Plan | None = None
        self.waiting: tuple[int, int] | None = None
        self.errors: list[PartsongError] = []

    def handle(self, parcel: Parcel) -> Parcel | Loss:
        try:
            return self._handled(parcel)
        except Refused as no:
            self.errors.append(no)
            code = "sum"
        except NotAgreed as no:
            self.errors.append(no)
            code = no.code
        except PartsongError as err:
            self.errors.append(err)
            return Loss.FAILED
        return Parcel(header=wire.encode(wire.Refuse(site=self.name, code=code)))

    def _handled(self, parcel: Parcel) -> Parcel:
        header, note = parcel.header, parcel.note
        match wire.kind_of(header):
            case "propose":
                return self._propose(wire.decode(header, wire.Propose).plan)
            case "keys":
                step = self._agreed(wire.decode(header, wire.Keys)).step
                reply = self.door.keys(step, note)
                return Parcel(header=wire.encode(wire.Keyed(site=self.name, step=step)), note=reply)
            case "open":
                query = self._agreed(wire.decode(header, wire.Open))
                self.waiting = None
                self.door.open(query, note)
                self.waiting = query.round, query.attempt
                header = wire.Ready(site=self.name, round=query.round, attempt=query.attempt, block=self.door.wanted)
                return Parcel(header=wire.encode(header), note=self.door.ready(bytes(32)))
            case "roster":
                return self._report(self._agreed(wire.decode(header, wire.Roster)), note, parcel.vector)
            case "confirm":
                message = self._agreed(wire.decode(header, wire.Confirm))
                return self._answer(wire.Step, message, self.door.confirm(note))
            case "unmask":
                message = self._agreed(wire.decode(header, wire.Unmask))
                return self._answer(wire.Step, message, self.door.unmask(note))
        result = self._agreed(wire.decode(header, wire.Result))
        return Parcel(header=wire.encode(wire.Checked(site=self.name)), note=self.door.check(result, note))

    def _agreed(self, message: Any) -> Any:
        if self.plan is None or self.plan.sha256 != message.plan_sha256:
            raise NotAgreed("state", "no such plan was accepted here")
        return message

    def _propose(self, plan: Plan) -> Parcel:
        self.waiting = None
        self.door.agree(plan, START_P)
        self.plan = plan
        return Parcel(header=wire.encode(wire.Accept(site=self.name, plan_sha256=plan.sha256)))

    def _report(self, roster: wire.Roster, note: bytes, vector: bytes) -> Parcel:
        if self.waiting != (roster.round, roster.attempt):
            raise NotAgreed("state", "no update of that round waits here")
        self.door.enter(roster, note, vector)
        self.waiting = None
        assert self.plan is not None
        update_P = self.made.update_of(self.name, roster.round)[: self.plan.update_size(roster.round)]
        words_W = seal(
            {UPDATE: update_P * np.float32(self.door.share), LOSS: np.array([2.0], np.float32)},
            self.plan, number=roster.round, rng=np.random.default_rng(),
        )  # fmt: skip
        self.made.sealed[roster.round, roster.attempt, self.name] = words_W.copy()
        vector, sealed = self.door.report(words_W)
        assert vector == b""
        return self._answer(wire.Report, roster, sealed)

    def _answer(self, cls: type, message: Any, note: bytes) -> Parcel:
        header = wire.encode(cls(site=self.name, round=message.round, attempt=message.attempt))
        return Parcel(header=header, note=note)


Before = Callable[[str, str, Parcel], "Parcel | Loss | None"]
After = Callable[[str, str, "Parcel | Loss"], "Parcel | Loss | None"]


@dataclass
class Lines:
    """Carries messages; a test may change or lose each on its way there or back."""

    made: "Wired"
    before: Before = lambda _site, _phase, parcel: parcel
    after: After = lambda _site, _phase, answer: answer
    asked: list[tuple[str, str]] = field(default_factory=list)
    """Kind and site of every message, as sent."""
    kill_at: int | None = None
    """The coordinator dies when it is about to send message number so many."""

    def addresses(self) -> tuple[int, ...]:
        return tuple(range(100, 100 + len(self.made.names)))

    def site_at(self, address: int) -> str | None:
        return None

    def ask(
        self, parcels: Mapping[int, Parcel], *, phase: str, timeout_s: float
    ) -> Iterator[tuple[int, Parcel | Loss]]:
        waited = False
        for address, parcel in parcels.items():
            site = self.made.names[address - 100]
            if self.kill_at is not None and len(self.asked) >= self.kill_at:
                raise Killed
            self.asked.append((phase, site))
            sent = self.before(site, phase, parcel)
            answer = self.made.deliver(site, sent) if isinstance(sent, Parcel) else sent
            back = None if answer is None else self.after(site, phase, answer)
            if back is None:
                waited = True
            else:
                yield address, back
        if waited:
            self.made.now += timeout_s


class Wired:
    """Five sites, one coordinator, and what is on everyone's disk."""

    def __init__(
        self,
        folder: Path,
        plan: Plan,
        *,
        names: tuple[str, ...] = ("a", "b", "c", "d", "e"),
        floors: Floors | None = None,
    ) -> None:
        self.folder, self.plan, self.names = folder, plan, names
        self.now = 1000.0
        self.consortium = found(names, floors=floors)
        self.vaults = {name: DyingVault() for name in names}
        charter = self.consortium.charter
        self.members = {
            name: Membership(
                charter=charter, signer=self.consortium.identities[n], vault=self.vaults[name], floors=charter.floors
            )
            for n, name in enumerate(sorted(names))
        }
        self.trust = Trust(charter=charter, signer=self.consortium.coordinator)
        self.hands: dict[str, Hand] = {name: Hand(self, name) for name in names}
        self.lines = Lines(self)
        self.sealed: dict[tuple[int, int, str], Any] = {}
        self.state = ServerState(adapter_P=START_P.astype(np.float64))
        self.done = 0
        self.opened: dict[int, int] = {}
        self.outcomes: dict[int, Outcome] = {}
        self.heard: list[events.Event] = []
        self.checked: tuple[str, ...] = ()
        self.before_last = self.state
        self.start()

    def start(self) -> None:
        """Start the coordinator's process, new or after a crash."""
        self.sums = MaskedSums(
            self.trust, self.plan, journal=self.journal, check_window=2, clock=lambda: self.now
        )  # fmt: skip
        self.coordinator = Coordinator(
            self.lines, self.plan, timeout_s=10.0, listen=self.heard.append, sums=self.sums
        )  # fmt: skip

    @property
    def journal(self) -> SumJournal:
        return SumJournal(self.folder / "coordinator")

    def propose(self) -> tuple[str, ...]:
        return self.coordinator.propose(lambda: (START_P, FROZEN_F))

    def restart(self, site: str) -> Hand:
        """Start a site's process on its disk."""
        self.vaults[site].dies_at = None
        self.hands[site] = Hand(self, site)
        return self.hands[site]

    def deliver(self, site: str, parcel: Parcel) -> Parcel | Loss | None:
        try:
            return self.hands[site].handle(parcel)
        except Killed:
            self.restart(site)
            return None

    @property
    def adapter_P(self) -> FloatVec:
        return self.state.adapter_P.astype(np.float32)

    def query(self, number: int) -> Query:
        self.opened[number] = self.opened.get(number, 0) + 1
        return Query(round=number, attempt=self.opened[number], adapter_P=self.adapter_P)

    def round(self, number: int) -> Outcome:
        """Ask one round and move the adapter along."""
        outcome = self.coordinator.run(self.query(number))
        self.take(outcome)
        return outcome

    def take(self, outcome: Outcome) -> None:
        self.state = step_of(self.state, outcome, self.plan).state
        self.done = outcome.state.number
        self.outcomes[self.done] = outcome

    def resume(self) -> None:
        """Start the coordinator again from its last checkpoint, as `Federation` does."""
        self.start()
        for outcome in self.sums.recovered(after=self.done):
            self.take(outcome)
        self.propose()

    def close(self) -> tuple[str, ...]:
        self.checked = self.coordinator.close(self.adapter_P)
        return self.checked

    def play(self, *, to: int) -> None:
        """Propose, go from the round after the last to this one, and close."""
        self.propose()
        for number in range(self.done + 1, to + 1):
            self.round(number)
        self.close()

    def update_of(self, site: str, number: int) -> FloatVec:
        """What a site has learned in a round."""
        return np.full(8, 0.1 * (1 + self.names.index(site)) + 0.01 * number, np.float32)

    def expected(self, number: int, sites: tuple[str, ...]) -> Opened:
        """What the sum of what these sites sealed says."""
        attempt = max(a for n, a, site in self.sealed if n == number and site in sites)
        total_W = np.sum([self.sealed[number, attempt, site] for site in sites], axis=0, dtype=np.uint64)
        return read_sum(total_W, self.plan, number=number, sites=len(sites))

    def is_exact(self, number: int) -> bool:
        """Whether a round ended with exactly the sum of what its sites sealed."""
        outcome = self.outcomes[number]
        assert outcome.opened is not None
        expected = self.expected(number, outcome.state.survivors)
        return outcome.opened.mean_P.tobytes() == expected.mean_P.tobytes()

    def errors(self, site: str) -> str:
        """Everything that went wrong at a site, in its own words."""
        return "\n".join(map(str, self.hands[site].errors))
