"""Kills the process of one site, with SIGKILL, after every step and at every write of a round, and starts it again.

A program of its own: forking is safe in it. No masks, so that the words of two runs can be compared. Prints one JSON
object: for each kill what became of the round.
"""

import importlib.util
import json
import os
import signal
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from partsong.client.budget.ledger import Ledger
from partsong.client.budget.ledger_export import verify
from partsong.client.budget.spending import Purse
from partsong.client.dp import release
from partsong.client.dp.sampler import Randomness, SeededRandomness, SystemRandomness
from partsong.client.encoders.encoder import Progress
from partsong.client.encoders.lora import LoraTraining
from partsong.client.rules.agreement import ByRules
from partsong.client.rules.consent import Rules
from partsong.client.secure_sum.door import PlainDoor
from partsong.client.secure_sum.file_vault import FileVault
from partsong.client.site import Chance, Site, Watch
from partsong.common import config, wire
from partsong.common.adapters.adapter import digest
from partsong.common.plan import Plan
from partsong.server.exchange import Parcel
from partsong.server.planning import Base, make_plan


def _beside(name: str, file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


dying_site: Any = _beside("dying_site", Path(__file__).with_name("dying_site.py"))
STEPS, ROUND = 3, 1
RULES = Rules(allow_without_privacy=True, minimum_records=1, max_epsilon=dying_site.EPSILON)
Kill = tuple[str, int]
"""Of the round's steps or of its writes, and which one."""
NEVER: Kill = ("step", 0)


class OpenDoor(PlainDoor):
    """A door without masks, as `dying_site.live` wants it."""

    words = b""


class World:
    """The plan, and how a site's process starts on a folder."""

    def __init__(self, setting: Any, *, private: bool, keeps: bool = True) -> None:
        self.setting, self.private, self.keeps = setting, private, keeps
        self.plan = plan_of(setting, private=private)

    def purse(self, ledger: Ledger) -> Purse:
        return Purse(ledger, **dying_site.PURSE)

    def site(self, folder: Path, on_step: Callable[[int, Progress], None]) -> tuple[Site, OpenDoor]:
        disk = folder / "disk"
        ledger = Ledger(disk / "ledger.sqlite")
        if "h" not in ledger.holdings():
            ledger.set_ceiling("h", epsilon=dying_site.EPSILON if self.private else None, delta=dying_site.DELTA)
        door = OpenDoor(name=dying_site.SITE, rules=RULES)
        vault = FileVault(disk / "vault", key=bytes(32), entropy=os.urandom)
        site = Site(
            name=dying_site.SITE, consent=ByRules(RULES), door=door, purse=self.purse(ledger),
            encoder=LoraTraining(host=self.setting.host, labels=(), encoded=self.setting.encoded),
            journal=disk / "journal.jsonl", chance=self.chance, watch=Watch(step=on_step),
            unfinished=dying_site.noting_every_step(disk, vault) if self.keeps else None,
        )  # fmt: skip
        return site, door

    def chance(self, _plan: Plan, number: int) -> Chance:
        samples: Randomness = SystemRandomness() if self.private else SeededRandomness(bytes([number]))
        return Chance(samples=samples, rounding=np.random.default_rng(number))

    def parcels(self, number: int) -> list[Parcel]:
        """What a coordinator sends for one round."""
        start_P, sha256 = self.setting.start_P, self.plan.sha256
        both = wire.vector_bytes(self.setting.frozen_F) + wire.vector_bytes(start_P)
        query = wire.Open(plan_sha256=sha256, adapter_sha256=digest(start_P), summed=0, round=number, attempt=1)
        roster = wire.Roster(plan_sha256=sha256, round=number, attempt=1, sites=("a", "b", dying_site.SITE))
        return [
            Parcel(header=wire.encode(wire.Propose(plan=self.plan)), vector=both),
            Parcel(header=wire.encode(query), vector=wire.vector_bytes(start_P)),
            Parcel(header=wire.encode(roster)),
        ]


def plan_of(setting: Any, *, private: bool) -> Plan:
    """A plan without masks, with or without noise."""
    noise: dict[str, Any] = {
        "mode": "dp", "epsilon": dying_site.EPSILON, "delta": dying_site.DELTA, "noise_multiplier": dying_site.NOISE,
    } if private else {"mode": "none"}  # fmt: skip
    host = setting.host
    settings = config.SimulationConfig(
        model=config.ModelConfig(source="x"), data=config.DataConfig(),
        adapter=config.AdapterConfig(r=1, lora_alpha=1.0),
        privacy=config.PrivacyConfig(sampling_rate=0.5, **noise),
        training=config.TrainingConfig(steps_per_round=STEPS, optim="adamw"), cohort=config.CohortConfig(minimum=3),
        secure_sum=config.SecureSumConfig(field_bits=32, mode="off"), rounds=2,
    )  # fmt: skip
    base = Base(sha256=host.files.sha256, lora=host.lora_options, layout=host.layout)
    return make_plan(
        settings, run="unfinished", max_sites=3, base=base, labels=(), frozen_F=setting.frozen_F,
        start_P=setting.start_P,
    )  # fmt: skip


class Life:
    """A site on one folder, through its death."""

    def __init__(self, world: World, folder: Path, kill: Kill) -> None:
        self.world, self.folder, self.kills = world, folder, iter([kill])
        (folder / "disk" / "vault").mkdir(parents=True)
        self.deaths = 0
        self.remote = self._process()

    def _process(self) -> Any:
        what, count = next(self.kills, NEVER)
        killer = dying_site.Killer(self.folder / "disk", (ROUND, count) if what == "write" else dying_site.NEVER)

        def on_step(_number: int, progress: Progress) -> None:
            _append(self.folder / "steps", progress.step)
            if what == "step" and progress.step == count:
                os.kill(os.getpid(), signal.SIGKILL)

        def start(line: Connection) -> None:
            drawn = release.standard_normal
            release.standard_normal = lambda n: _append(self.folder / "draws", n) or drawn(n)
            killer.arm()
            site, door = self.world.site(self.folder, on_step)
            late = dying_site.LatePurse(Ledger(self.folder / "unused.sqlite"), **dying_site.PURSE)
            dying_site.live(site, door, late, line, killer)

        return dying_site.Remote(start)

    def play(self, number: int) -> Parcel | Any:
        """Deliver a round; after a death again from its beginning, as a journaled inbox does."""
        parcels = self.world.parcels(number)
        answer: Any = None
        for upto in range(len(parcels)):
            try:
                answer = self.remote.handle(parcels[upto])
            except dying_site.Gone:
                self.deaths += 1
                assert os.WIFSIGNALED(self.remote.end())
                self.remote = self._process()
                answer = [self.remote.handle(parcel) for parcel in parcels[: upto + 1]][-1]
        return answer

    def tell(self) -> dict[str, Any]:
        """Play a round in which it dies and one more, and look at what is left."""
        first, second = self.play(ROUND), self.play(ROUND + 1)
        self.remote.end()
        ledger = Ledger(self.folder / "disk" / "ledger.sqlite")
        verify(ledger)
        state = ledger.state(f"{self.world.plan.sha256}:{ROUND}:1")
        ledger.close()
        steps = _read(self.folder / "steps")
        unfinished = self.folder / "disk" / "unfinished"
        return {
            "deaths": self.deaths, "state": state, "left": sorted({f.name for f in unfinished.glob("*")} - {".lock"}),
            "first": wire.kind_of(first.header), "words": first.vector.hex(), "second": wire.kind_of(second.header),
            "broken": self.remote.broken, "steps": steps, "draws": len(_read(self.folder / "draws")),
        }  # fmt: skip


def _append(path: Path, number: int) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(handle, f"{number}\n".encode())
    os.close(handle)


def _read(path: Path) -> list[int]:
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def at_every(world: World, what: str) -> list[dict[str, Any]]:
    """Kill at the 1st, 2nd, 3rd, ... until there is none left to kill at; the last one lives."""
    found: list[dict[str, Any]] = []
    while not found or found[-1]["deaths"]:
        with dying_site.scratch() as name:
            found.append(Life(world, Path(name), (what, len(found) + 1)).tell())
    return found


def main() -> None:
    """Run the scenarios named on the command line."""
    setting = dying_site.Setting()
    scenarios = {
        "steps": lambda: at_every(World(setting, private=False), "step"),
        "writes": lambda: at_every(World(setting, private=False), "write"),
        "private steps": lambda: at_every(World(setting, private=True), "step"),
        "private writes": lambda: at_every(World(setting, private=True), "write"),
        "nothing kept": lambda: at_every(World(setting, private=False, keeps=False), "step"),
    }
    sys.stdout.write(json.dumps({name: scenarios[name]() for name in sys.argv[1:]}))


if __name__ == "__main__":
    main()
