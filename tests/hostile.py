"""Five site daemons behind real connections, and a coordinator that can sign and send anything; canaries, no model."""

import __future__

import dataclasses
import importlib.util
import inspect
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from daemon_fleet import NAMES, Fleet
from transport_fixtures import Port, make_port

from partsong.client.daemon.control import Link
from partsong.client.daemon.failure_book import FailureBook
from partsong.client.daemon.up import _heard
from partsong.client.link.channel import ClientTls
from partsong.client.link.questions import Handle, Question, Told, signed
from partsong.common import wire
from partsong.common.adapters.adapter import FloatVec
from partsong.common.adapters.methods import ServerState
from partsong.common.identity.envelope import SiteEnvelope
from partsong.common.plan import Plan
from partsong.server.coordinator import Coordinator
from partsong.server.desk import Outcome, Query
from partsong.server.exchange import Exchange, Parcel
from partsong.server.link.gate import Limits
from partsong.server.rounds import Loss
from partsong.server.secure_sum.masked_sums import MaskedSums
from partsong.server.secure_sum.sum_journal import SumJournal
from partsong.server.studies.train import step_of

NO_NUMBERS = np.zeros(0, np.float32)


def beside_client(name: str) -> Any:
    """Load a helper of the tests of sites, once."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).parent / "client" / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


def fleet_end() -> Any:
    """The site's end of a connection, in a thread."""
    return beside_client("fleet_end")


def _unhurried(stop: threading.Event, seconds: float) -> None:
    """Wait a little, so that heartbeats and retries stay below the port's limit on requests."""
    stop.wait(min(seconds, 0.25))


class Ward:
    """One site as `partsong site up` puts it together: daemon, envelope, connection, and what its log would hold."""

    def __init__(self, fleet: Fleet, port: Port, name: str, *, address: int | None = None, **changes: Any) -> None:
        self.site, self.name = fleet.sites[name], name
        self.log: list[tuple[str, Mapping[str, Any]]] = []
        self._watch = self.site.feed.watch()
        link = Link(self.site.feed)
        failures = FailureBook(self.site.home.capsules, site=name, feed=self.site.feed, clock=lambda: fleet.now)
        envelope = SiteEnvelope(site=name, signer=self.site.signer, coordinator=fleet.charter.coordinator_key)
        self.honest = signed(envelope, self.site.daemon.answer)
        self.answers: Handle = self.honest
        held = port.sites[name]
        tls = ClientTls(certificate=held.certificate_file, key=held.key_file, authority=port.authority.file)
        self.line = fleet_end().Running(
            address or port.superlink.port,
            tls,
            fleet.folder / name / "line",
            self._answer,
            **{"wait": _unhurried, **changes},
        )
        self.line.on_told = lambda told: self._tell(told, link, failures)

    def _answer(self, question: Question) -> Any:
        return self.answers(question)

    @staticmethod
    def _tell(told: Told, link: Link, failures: FailureBook) -> None:
        _heard(told, link, failures)

    def rules(self) -> list[str]:
        """What was refused, dropped or failed since the last call, by rule."""
        self._read()
        found = [str(facts.get("rule", "")) for event, facts in self.log if event in ("refused", "dropped", "failed")]
        self.log.clear()
        return found

    def _read(self) -> None:
        while (event := self._watch.next(timeout_s=0)) is not None:
            self.log.append((event.event, event.facts))


Change = Callable[[str, str, Parcel], Parcel | None]
"""Given site, phase and what is about to be sent: what is sent instead; None: nothing."""


class Tapped:
    """An exchange in which the coordinator may change everything before it is sealed."""

    def __init__(self, exchange: Exchange, change: Change) -> None:
        self._exchange, self._change = exchange, change
        self.sent: list[tuple[str, str, Parcel]] = []

    def addresses(self) -> tuple[int, ...]:
        return self._exchange.addresses()

    def site_at(self, address: int) -> str | None:
        return self._exchange.site_at(address)

    def ask(
        self, parcels: Mapping[int, Parcel], *, phase: str, timeout_s: float
    ) -> Iterator[tuple[int, Parcel | Loss]]:
        changed = {}
        for address, parcel in parcels.items():
            site = str(self.site_at(address))
            self.sent.append((site, phase, parcel))
            if (instead := self._change(site, phase, parcel)) is not None:
                changed[address] = instead
        yield from self._exchange.ask(changed, phase=phase, timeout_s=timeout_s)
        yield from ((address, Loss.SILENT) for address in set(parcels) - set(changed))


@dataclasses.dataclass
class Hospital:
    """Everybody."""

    fleet: Fleet
    port: Port
    wards: dict[str, Ward]
    timeout_s: float = 20.0
    make_plan: Callable[..., Plan] | None = None
    """Makes a plan of training."""
    played: "tuple[Played, ...]" = ()
    """Runs that went as they should."""
    asked: int = 0

    def say(
        self, site: str, header: bytes, *, kind: str, vector: bytes = b"", note: bytes = b"", run: str = "run-1",
        signer: Any = None,
    ) -> Parcel | Loss:  # fmt: skip
        """Ask one site, signed by the coordinator or somebody else."""
        port = self.port if signer is None else dataclasses.replace(self.port, coordinator=signer)
        exchange = port.exchange(run)
        address = port.nodes(exchange)[site]
        parcel = Parcel(header=header, vector=vector, note=note)
        ((_, answer),) = exchange.ask({address: parcel}, phase=kind, timeout_s=self.timeout_s)
        return answer  # type: ignore[no-any-return]

    def propose(self, site: str, plan: Plan, vector: bytes | None = None, **more: Any) -> str:
        """Propose a plan; gives `accept`, the code of a refusal, or how the answer was lost."""
        start = wire.vector_bytes(np.zeros(plan.layout.size(trained=True), np.float32))
        header = wire.encode(wire.Propose(plan=plan))
        answer = self.say(site, header, kind="propose", vector=start if vector is None else vector, **more)
        if isinstance(answer, Loss):
            return answer.value
        if wire.kind_of(answer.header) == "accept":
            return "accept"
        return wire.decode(answer.header, wire.Refuse).code

    def canary(self, run: str, *, size: int = 40, **changes: Any) -> Plan:
        """An honest plan of one round."""
        plan: Plan = self.fleet.canary(run=run, rounds=1, size=size, **changes).plan
        return plan

    def goes_on(self, site: str) -> bool:
        """Whether the site answers the coordinator's honest question."""
        self.wards[site].rules()
        self.asked += 1
        return self.propose(site, self.canary(f"honest {self.asked}")) == "accept"

    def play(self, plan: Plan, change: Change = lambda _site, _phase, parcel: parcel) -> "Played":
        """Carry a canary of one round out over the connections."""
        tapped = Tapped(self.port.exchange(plan.run), change)
        journal = SumJournal(self.fleet.folder / "coordinator" / plan.run)
        sums = MaskedSums(self.fleet.trust, plan, journal=journal, check_window=2, clock=lambda: self.fleet.now)
        coordinator = Coordinator(tapped, plan, timeout_s=self.timeout_s, listen=lambda _event: None, sums=sums)
        start_P: FloatVec = np.zeros(plan.layout.size(trained=True), np.float32)
        accepted = coordinator.propose(lambda: (start_P, NO_NUMBERS))
        outcome = coordinator.run(Query(round=1, attempt=1, adapter_P=start_P))
        state = step_of(ServerState(adapter_P=start_P.astype(np.float64)), outcome, plan).state
        checked = coordinator.close(state.adapter_P.astype(np.float32))
        return Played(plan, accepted, outcome, tapped, checked)


@dataclasses.dataclass
class Played:
    """A canary's one round."""

    plan: Plan
    accepted: tuple[str, ...]
    outcome: Outcome
    tapped: Tapped
    checked: tuple[str, ...]
    """Sites that found sum and adapter right."""

    def sent(self, site: str, phase: str) -> Parcel:
        """The last parcel of a phase to a site."""
        return [parcel for to, kind, parcel in self.tapped.sent if (to, kind) == (site, phase)][-1]

    @property
    def survivors(self) -> tuple[str, ...]:
        return self.outcome.state.survivors

    def is_exact(self) -> bool:
        """Whether the round gave the sum of its survivors, and nothing else."""
        from partsong.common.canary import canary_update  # noqa: PLC0415

        opened = self.outcome.opened
        if opened is None:
            return False
        sent = sum(canary_update(self.plan, number=1, site=name).astype(np.float64) for name in self.survivors)
        return bool((np.rint(opened.mean_P * len(self.survivors)) == sent).all())


@contextmanager
def opened(folder: Path, *, names: tuple[str, ...] = NAMES) -> Iterator[Hospital]:
    """Start everybody; these sites connect."""
    (home := folder / "port").mkdir(parents=True)
    fleet = Fleet(folder / "sites")
    port = make_port(home, *NAMES, limits=Limits(hold_s=0.05))
    port = dataclasses.replace(
        port,
        identities={name: site.signer for name, site in fleet.sites.items()},
        coordinator=fleet.trust.signer,
    )
    with ExitStack() as stack:
        stack.callback(fleet.close)
        stack.enter_context(port.superlink)
        wards = {name: Ward(fleet, port, name) for name in names}
        for ward in wards.values():
            stack.enter_context(ward.line)
        for ward in wards.values():
            ward.line.until_told("connected")
        yield Hospital(fleet, port, wards)


def without(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, check: str, instead: str) -> None:
    """Put a function in place whose source lacks one check."""
    function = inspect.unwrap(getattr(owner, name))  # one that remembers its answers has the function within
    source = textwrap.dedent(inspect.getsource(function))
    assert source.count(check) == 1, f"{check!r} occurs {source.count(check)} times in {name}"
    scope: dict[str, Any] = {}
    code = compile(
        source.replace(check, instead),
        function.__code__.co_filename,
        "exec",
        flags=__future__.annotations.compiler_flag,
    )
    exec(code, function.__globals__, scope)
    monkeypatch.setattr(owner, name, scope[name])


def in_background(work: Callable[[], Any]) -> Callable[[], Any]:
    """Do something in a thread; call the result for what came of it."""
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()

    def result() -> Any:
        thread.join()
        return found[0]

    return result
