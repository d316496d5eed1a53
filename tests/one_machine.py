"""One site's disk, and its processes one after the other, each of which may break off anywhere."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from partsong.client.budget.ledger import Ledger
from partsong.client.budget.spending import Purse
from partsong.client.data.encode import Encoded
from partsong.client.dp.sampler import Randomness, SeededRandomness, SystemRandomness
from partsong.client.encoders.encoder import Encoder, LocalUpdate, Progress
from partsong.client.encoders.lora import LoraTraining
from partsong.client.model.host import ModelHost
from partsong.client.rules.agreement import ByRules
from partsong.client.rules.consent import Rules
from partsong.client.secure_sum.door import Answer, PlainDoor
from partsong.client.secure_sum.file_vault import FileVault
from partsong.client.site import Chance, Site, Watch
from partsong.client.training.unfinished import UnfinishedWork
from partsong.common import wire
from partsong.common.adapters.adapter import digest
from partsong.common.errors import PartsongError
from partsong.common.plan import Plan

RULES = Rules(allow_without_privacy=True, minimum_records=1, max_epsilon=50.0)
PRIVATE = {"mode": "dp", "epsilon": 50.0, "delta": 1e-3, "noise_multiplier": 0.5}
"""Little noise, because its epsilon is quickly computed."""
STEPS = 3


class Killed(BaseException):
    """The process ends here; what it had in memory is gone."""


class Machine:
    """One site's disk, and its processes one after the other."""

    def __init__(self, disk: Path, host: ModelHost, encoded: Encoded, plan: Plan) -> None:
        self.disk, self.host, self.encoded, self.plan = disk, host, encoded, plan
        self.frozen_F, self.start_P = host.take(trained=False), host.take()
        self.steps: list[int] = []
        self.updates: list[LocalUpdate] = []
        self.refusals: list[PartsongError] = []
        self.kill_after: int | None = None
        self.end_by: type[BaseException] = Killed
        self.fingerprint = "f"
        self.parts: list[Any] = []
        (disk / "vault").mkdir(parents=True)
        self.boot()
        self.ledger.set_ceiling("h", epsilon=50.0 if plan.dp else None, delta=1e-3)

    def boot(self, *, keeps: bool = True) -> None:
        """Start a process; the one before is gone."""
        self.end()
        self.ledger = Ledger(self.disk / "ledger.sqlite")
        vault = FileVault(self.disk / "vault", key=bytes(32), entropy=np.random.default_rng().bytes)
        self.work = UnfinishedWork(self.disk / "unfinished", vault=vault, most_share=math.inf)
        self.parts = [self.ledger, self.work]
        units = {"record": 12, "patient": None}
        self.site = Site(
            name="north", encoder=self.encoder(), consent=ByRules(RULES), journal=self.disk / "journal.jsonl",
            door=PlainDoor(name="north", rules=RULES), chance=self.chance,
            purse=Purse(self.ledger, holding="h", fingerprint=self.fingerprint, units=units, coordinator="c"),
            watch=Watch(
                step=self.step, update=lambda _, update: self.updates.append(update), refusal=self.refusals.append
            ),
            unfinished=self.work if keeps else None,
        )  # fmt: skip

    def end(self) -> None:
        for part in self.parts:
            part.close()
        self.parts = []

    def encoder(self) -> Encoder:
        return LoraTraining(host=self.host, encoded=self.encoded, labels=())

    def chance(self, _plan: Plan, number: int) -> Chance:
        samples: Randomness = SystemRandomness() if self.plan.dp else SeededRandomness(bytes([number]))
        return Chance(samples=samples, rounding=np.random.default_rng(number))

    def step(self, _number: int, progress: Progress) -> None:
        self.steps.append(progress.step)
        if progress.step == self.kill_after:
            self.kill_after = None
            raise self.end_by("here")

    def propose(self) -> Answer:
        vector = wire.vector_bytes(self.frozen_F) + wire.vector_bytes(self.start_P)
        return self.site.handle(wire.encode(wire.Propose(plan=self.plan)), vector=vector)

    def open(self, number: int = 1, attempt: int = 1, *, shift: float = 0.0) -> Answer:
        adapter_P = (self.start_P + np.float32(shift)).astype(np.float32)
        header = wire.Open(
            plan_sha256=self.plan.sha256, adapter_sha256=digest(adapter_P), summed=0, round=number, attempt=attempt
        )
        return self.site.handle(wire.encode(header), vector=wire.vector_bytes(adapter_P))

    def roster(self, number: int = 1, attempt: int = 1) -> Answer:
        sites = ("east", "north", "west")
        header = wire.Roster(plan_sha256=self.plan.sha256, round=number, attempt=attempt, sites=sites)
        return self.site.handle(wire.encode(header))

    def break_off(self, *, after: int) -> None:
        """Open round 1 and kill the process after a step; start it again."""
        self.propose()
        self.kill_after = after
        with pytest.raises(Killed):
            self.open()
        self.boot()
        self.propose()

    def says(self, number: int = 1, attempt: int = 1) -> str | None:
        return self.ledger.state(f"{self.plan.sha256}:{number}:{attempt}")

    def files(self) -> list[str]:
        """What is unfinished on the disk."""
        return [f.name for f in (self.disk / "unfinished").iterdir() if f.name != ".lock"]
