"""Five site daemons on their directories and a coordinator, all in one process, with canaries in place of a model."""

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from partsong.client.budget.ledger import Ledger
from partsong.client.budget.spending import FreePurse
from partsong.client.daemon.daemon import SiteDaemon, policy_under
from partsong.client.daemon.work import Work, Workshop
from partsong.client.encoders.canary import CanaryEncoder
from partsong.client.encoders.resident import ResidentModel
from partsong.client.home.layout import SiteHome
from partsong.client.rules.policy import Policy
from partsong.client.secure_sum.file_vault import FileVault
from partsong.client.training.unfinished import UnfinishedWork
from partsong.common import events
from partsong.common.adapters.adapter import FloatVec
from partsong.common.adapters.methods import ServerState
from partsong.common.canary import canary_update
from partsong.common.config import DataConfig, ModelConfig
from partsong.common.control.feed import Feed
from partsong.common.deployment import SiteConfig
from partsong.common.errors import PartsongError
from partsong.common.identity.charter import Charter
from partsong.common.plan import Plan
from partsong.server.coordinator import Coordinator
from partsong.server.daemon.canary import make_canary
from partsong.server.desk import Outcome, Query
from partsong.server.exchange import Parcel
from partsong.server.rounds import Loss
from partsong.server.secure_sum.masked_sums import MaskedSums, Trust
from partsong.server.secure_sum.sum_journal import SumJournal
from partsong.server.studies.train import step_of
from partsong.simulations.secure_sum import found

NAMES = ("a", "b", "c", "d", "e")


@dataclass(frozen=True, kw_only=True, slots=True)
class Opened:
    """What is unlocked of a site's directory."""

    config: SiteConfig
    signer: Any
    charter: Charter
    policy: Policy
    vault: Any


class Canaries:
    """A site that can do nothing else."""

    has_changed = False

    def __init__(self, name: str, ledger: Ledger) -> None:
        purse = FreePurse(ledger, holding="records", fingerprint="f", units={}, coordinator="k")
        self.work = Work(encoder=CanaryEncoder(site=name), purse=purse)

    def work_of(self, _plan: Plan) -> Work:
        return self.work

    def check_readable(self) -> None:
        pass


class Site:
    """A site's disk, and the daemon that runs on it."""

    def __init__(self, fleet: "Fleet", name: str, signer: Any) -> None:
        self.fleet, self.name, self.signer = fleet, name, signer
        self.home = SiteHome(fleet.folder / name)
        self.home.vault.mkdir(parents=True)
        self.key = os.urandom(32)
        self.config = SiteConfig(
            name=name, coordinator="localhost:7443", model=ModelConfig(source="none"), data=DataConfig()
        )
        self.policy, self.charter = fleet.policy, fleet.charter
        self.works: Callable[[Ledger], Any] = lambda ledger: Canaries(name, ledger)
        self.feed = Feed(clock=lambda: fleet.now)
        self.ledger: Ledger | None = None
        self.more: dict[str, Any] = {}
        self.start()

    def start(self) -> SiteDaemon:
        """Start the daemon, new or after it was killed."""
        if self.ledger is not None:
            self.close()
        self.ledger = ledger = Ledger(self.home.ledger)
        vault = FileVault(self.home.vault, key=self.key, entropy=os.urandom)
        self.unfinished = UnfinishedWork(self.home.unfinished, vault=vault, most_share=math.inf)
        opened = Opened(
            config=self.config, signer=self.signer, charter=self.charter, policy=self.policy, vault=vault
        )  # fmt: skip
        self.daemon = SiteDaemon(
            home=self.home, site=opened, ledger=ledger, works=self.works(ledger),
            unfinished=self.unfinished, feed=self.feed, clock=lambda: self.fleet.now, **self.more,
        )  # fmt: skip
        return self.daemon

    def close(self) -> None:
        """What the end of the process does."""
        if self.ledger is not None:
            self.ledger.close()
            self.unfinished.close()


@dataclass
class Run:
    """One plan of the coordinator."""

    fleet: "Fleet"
    plan: Plan
    frozen_F: FloatVec
    start_P: FloatVec
    asked: list[tuple[str, str]] = field(default_factory=list)
    """Kind and site of every message, as sent."""
    errors: list[PartsongError] = field(default_factory=list)
    before: Callable[[int, str, str], None] = lambda _number, _phase, _site: None
    """Called before each message, with how many went before it."""
    outcomes: dict[int, Outcome] = field(default_factory=dict)

    def __post_init__(self) -> None:
        journal = SumJournal(self.fleet.folder / "coordinator" / self.plan.run)
        sums = MaskedSums(self.fleet.trust, self.plan, journal=journal, check_window=2, clock=lambda: self.fleet.now)
        self.heard: list[events.Event] = []
        self.coordinator = Coordinator(self, self.plan, timeout_s=10.0, listen=self.heard.append, sums=sums)
        self.state = ServerState(adapter_P=self.start_P.astype(np.float64))

    def addresses(self) -> tuple[int, ...]:
        return tuple(range(100, 100 + len(NAMES)))

    def site_at(self, address: int) -> str:
        return NAMES[address - 100]

    def ask(
        self, parcels: Mapping[int, Parcel], *, phase: str, timeout_s: float
    ) -> Iterator[tuple[int, Parcel | Loss]]:
        for address, parcel in parcels.items():
            name = NAMES[address - 100]
            self.before(len(self.asked), phase, name)
            self.asked.append((phase, name))
            try:
                answer = self.fleet.sites[name].daemon.answer(parcel.header, vector=parcel.vector, note=parcel.note)
            except PartsongError as err:
                self.errors.append(err)
                yield address, Loss.FAILED
            else:
                yield address, Parcel(header=answer.header, vector=answer.vector, note=answer.note)

    def propose(self) -> tuple[str, ...]:
        return self.coordinator.propose(lambda: (self.start_P, self.frozen_F))

    def round(self, number: int, attempt: int = 1) -> Outcome:
        """Ask one round and move the adapter along."""
        adapter_P = self.state.adapter_P.astype(np.float32)
        outcome = self.coordinator.run(Query(round=number, attempt=attempt, adapter_P=adapter_P))
        self.state = step_of(self.state, outcome, self.plan).state
        self.outcomes[number] = outcome
        return outcome

    def close(self) -> tuple[str, ...]:
        return self.coordinator.close(self.state.adapter_P.astype(np.float32))

    def play(self) -> tuple[str, ...]:
        """Propose, ask every round, close; give the sites that found the end right."""
        self.propose()
        for number in range(1, self.plan.rounds + 1):
            self.round(number)
        return self.close()

    def survivors(self, number: int) -> tuple[str, ...]:
        return self.outcomes[number].state.survivors

    def is_exact(self, number: int) -> bool:
        """Whether a canary's round gave the sum of what its survivors had to send, and nothing else."""
        opened, sites = self.outcomes[number].opened, self.survivors(number)
        assert opened is not None
        sent = sum(canary_update(self.plan, number=number, site=name).astype(np.float64) for name in sites)
        return bool((np.rint(opened.mean_P * len(sites)) == sent).all())


class Fleet:
    """Everybody."""

    def __init__(self, folder: Path, *, policy: Policy | None = None) -> None:
        self.folder, self.now = folder, 1_700_000_000.0
        consortium = found(NAMES)
        self.charter, self.policy = consortium.charter, policy or Policy()
        self.trust = Trust(charter=self.charter, signer=consortium.coordinator)
        self.sites = {name: Site(self, name, key) for name, key in zip(NAMES, consortium.identities, strict=True)}

    def canary(self, *, run: str = "canary-1", rounds: int = 2, size: int = 40, **changes: Any) -> Run:
        """Begin a canary, to be played."""
        plan = make_canary(run=run, size=size, rounds=rounds, max_sites=5, minimum_cohort=3, seed=7)
        values = {name: getattr(plan, name) for name in Plan.__dataclass_fields__}
        return self.run(Plan(**values | changes), np.zeros(0, np.float32), np.zeros(size, np.float32))

    def run(self, plan: Plan, frozen_F: FloatVec, start_P: FloatVec) -> Run:
        return Run(self, plan, frozen_F, start_P)

    def close(self) -> None:
        for site in self.sites.values():
            site.close()


def let_train(fleet: Fleet, *, records: int = 40, base: Path, **site: Any) -> None:
    """Give every site records and the tiny base, one model for all of them, and start its daemon anew."""
    resident = None
    for n, one in enumerate(fleet.sites.values()):
        file = fleet.folder / one.name / "records.jsonl"
        rows = [
            {"prompt": f"case {i} of {n}", "completion": f"zeta{i % 7}", "patient": f"kappa{i % 9}"}
            for i in range(records)
        ]
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        model = ModelConfig(source=str(base), device="cpu", threads=1)
        resident = resident or ResidentModel(model)
        data = DataConfig(path=str(file), unit_field="patient", max_length=128)
        one.config = SiteConfig(name=one.name, coordinator="localhost:7443", model=model, data=data, **site)
        one.policy = fleet.policy
        one.works = lambda ledger, one=one, resident=resident: Workshop(
            one.config, rules=policy_under(one.policy, fleet.charter).rules, ledger=ledger, coordinator="k",
            resident=resident,
        )  # fmt: skip
        one.start()
