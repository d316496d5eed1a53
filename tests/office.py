"""A coordinator's directory, its daemon, and five sites without a model that are connected to it in memory."""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from wiring import FROZEN_F, START_P, Wired

from partsong.common import wire
from partsong.common.adapters.adapter import AdapterLayout, TensorSpec, digest
from partsong.common.config import CohortConfig, ModelConfig, PrivacyConfig
from partsong.common.deployment import JobConfig
from partsong.common.identity.charter import SignedCharter, sign_as_coordinator, sign_as_site
from partsong.common.plan import Plan
from partsong.common.thresholds import Floors
from partsong.server.daemon.carry import Link, Pace
from partsong.server.daemon.daemon import CoordinatorDaemon
from partsong.server.daemon.deployed_run import DeployedRun, all_runs
from partsong.server.daemon.job import BaseFacts, Job, write_job
from partsong.server.exchange import Parcel
from partsong.server.membership.home import CoordinatorHome
from partsong.server.rounds import Loss

NAMES = ("a", "b", "c", "d", "e")
LORA = {"r": 2, "lora_alpha": 4.0, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM"}
LAYOUT = AdapterLayout(
    tensors=(TensorSpec(name="A", shape=(2, 3), trained=False), TensorSpec(name="B", shape=(4, 2), trained=True))
)
BASE = BaseFacts(name="tiny", sha256="b" * 64, lora=LORA, layout=LAYOUT, peft={**LORA, "inference_mode": True})


class Hospitals:
    """Five sites, or others, and the wires to them; stands where the superlink does."""

    def __init__(self, folder: Path, plan: Plan, *, names: tuple[str, ...], floors: Floors | None) -> None:
        folder.mkdir()
        self.names, self.made = names, Wired(folder, plan, names=names, floors=floors)
        self.lines = self.made.lines
        self.there = list(names)
        self.late: dict[int, str] = {}
        """Site that connects once so many messages were sent."""
        self.refusals: dict[str, wire.RefusalCode] = {}
        """By site the code with which it refuses every plan."""
        self.shelves: dict[str, dict[str, wire.Publish]] = {name: {} for name in names}
        """By site and plan, what it has stored."""
        self.lines.before = self.before

    def connected(self) -> tuple[str, ...]:
        self.there += [site for count, site in self.late.items() if count <= len(self.lines.asked)]
        return tuple(sorted(set(self.there)))

    def exchange(self, *, run: str, signer: object, identity_keys: Mapping[str, bytes]) -> "Carrier":
        assert set(identity_keys) == set(self.names)
        return Carrier(self)

    def before(self, site: str, phase: str, parcel: Parcel) -> Parcel | Loss | None:
        return parcel

    def answer(self, site: str, phase: str, parcel: Parcel) -> Parcel | None:
        """What a site says to messages that no door takes; None: the door's."""
        if phase == "propose" and site in self.refusals:
            return Parcel(header=wire.encode(wire.Refuse(site=site, code=self.refusals[site])))
        if phase == "offer":
            offered = wire.decode(parcel.header, wire.Offer).adapters
            stored = {plan: found.adapter_sha256 for plan, found in self.shelves[site].items()}
            lacks = tuple(o.plan_sha256 for o in offered if stored.get(o.plan_sha256) != o.adapter_sha256)
            return Parcel(header=wire.encode(wire.Want(site=site, plans=lacks)))
        if phase == "publish":
            return self.store(site, parcel)
        return None

    def store(self, site: str, parcel: Parcel) -> Parcel:
        """Take an adapter as the specification has it."""
        found = wire.decode(parcel.header, wire.Publish)
        frozen = found.plan.layout.size(trained=False)
        both = wire.floats(parcel.vector, size=frozen + found.plan.layout.size(trained=True))
        assert digest(both[:frozen]) == found.plan.frozen_sha256
        assert digest(both[frozen:]) == found.adapter_sha256
        rest = parcel.note
        for file in found.files:
            if file.name != wire.WEIGHTS:
                assert hashlib.sha256(rest[: file.size]).hexdigest() == file.sha256
                rest = rest[file.size :]
        assert rest == b""
        self.shelves[site][found.plan.sha256] = found
        return Parcel(header=wire.encode(wire.Stored(site=site, plan_sha256=found.plan.sha256)))


class Carrier:
    """One exchange."""

    def __init__(self, hospitals: Hospitals) -> None:
        self.hospitals = hospitals

    def addresses(self) -> tuple[int, ...]:
        return tuple(100 + self.hospitals.names.index(site) for site in self.hospitals.connected())

    def site_at(self, address: int) -> str | None:
        return self.hospitals.names[address - 100]

    def ask(
        self, parcels: Mapping[int, Parcel], *, phase: str, timeout_s: float
    ) -> Iterator[tuple[int, Parcel | Loss]]:
        own = {}
        for address, parcel in parcels.items():
            answer = self.hospitals.answer(self.hospitals.names[address - 100], phase, parcel)
            if answer is not None:
                own[address] = answer
        yield from own.items()
        left = {address: parcel for address, parcel in parcels.items() if address not in own}
        yield from self.hospitals.lines.ask(left, phase=phase, timeout_s=timeout_s)


class Office:
    """A coordinator's directory and whoever runs on it."""

    def __init__(
        self,
        folder: Path,
        plan: Plan,
        *,
        names: tuple[str, ...] = NAMES,
        floors: Floors | None = None,
        **pace: float,
    ) -> None:
        self.home = CoordinatorHome(folder / "home")
        self.hospitals = Hospitals(folder / "sites", plan, names=names, floors=floors)
        self.folder, self.pace = folder, Pace(**{"settle_s": 0.0, "retry_s": 0.0} | pace)
        made = self.hospitals.made
        charter, signer = made.consortium.charter, made.consortium.coordinator
        self.signed: SignedCharter | None = SignedCharter(
            charter=charter,
            coordinator_signature=sign_as_coordinator(charter, signer),
            site_signatures={
                name: sign_as_site(charter, site_id=name, signer=made.consortium.identities[number])
                for number, name in enumerate(sorted(names))
            },
        )
        self.jobs = 0

    def daemon(self, link: Link | None = None) -> CoordinatorDaemon:
        """Start the daemon's process, new or after a crash; its thread is the test's."""
        signer = self.hospitals.made.consortium.coordinator
        daemon = CoordinatorDaemon(
            self.home, link or self.hospitals, signer=signer, charter=lambda: self.signed, pace=self.pace
        )  # fmt: skip
        daemon.take_up()
        return daemon

    def job(self, **changes: Any) -> Path:
        """Write a job of three rounds."""
        self.jobs += 1
        values: dict[str, Any] = {
            "model": ModelConfig(source="x"),
            "privacy": PrivacyConfig(mode="none"),
            "cohort": CohortConfig(report_timeout_s=10.0),
            "rounds": 3,
            "max_length": 64,
        }
        folder = self.folder / f"job-{self.jobs}"
        config = JobConfig(**values | changes)
        write_job(folder, Job(config=config, base=BASE, start_P=START_P, frozen_F=FROZEN_F))
        return folder

    def only(self) -> DeployedRun:
        """The one run that there is."""
        (run,) = all_runs(self.home.runs)
        return run

    def played(self, **changes: Any) -> DeployedRun:
        """Carry a job to its end."""
        daemon = self.daemon()
        run = daemon.submit(self.job(**changes))
        assert daemon.step()
        return run
