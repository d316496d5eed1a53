"""One site and what a coordinator would send it, message by message."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from partsong.client.budget.ledger import Ledger
from partsong.client.budget.spending import Purse
from partsong.client.data.encode import Encoded
from partsong.client.dp.sampler import SeededRandomness, SystemRandomness
from partsong.client.encoders.encoder import LocalUpdate, Progress
from partsong.client.encoders.lora import LoraTraining
from partsong.client.model.host import ModelHost
from partsong.client.rules.agreement import ByRules
from partsong.client.rules.consent import Rules
from partsong.client.secure_sum.door import Answer, PlainDoor
from partsong.client.site import Chance, Site, Watch
from partsong.common import wire
from partsong.common.adapters.adapter import digest
from partsong.common.errors import PartsongError
from partsong.common.files import read_lines
from partsong.common.plan import Plan

RULES = Rules(allow_without_privacy=True, minimum_records=1)

PRIVATE = {"mode": "dp", "epsilon": 8.0, "delta": 1e-3}


class Bench:
    """One site and what a coordinator would send it."""

    def __init__(self, host: ModelHost, encoded: Encoded, plan: Plan, journal: Path, rules: Rules) -> None:
        self.host, self.plan, self.journal, self.encoded, self.rules = host, plan, journal, encoded, rules
        self.frozen_F, self.start_P = host.take(trained=False), host.take()
        self.rounds: list[tuple[int, LocalUpdate]] = []
        self.journal_at_first_step: list[Any] | None = None
        self.reserved_at_first_step: tuple[str, ...] = ()
        self.refusals: list[PartsongError] = []
        self.ledger = Ledger(journal.with_name("ledger.sqlite"))
        self.ledger.set_ceiling("h", epsilon=8.0 if plan.dp else None, delta=1e-3)
        self.site = self.new_site()

    def new_site(self, *, seeded: bool | None = None) -> Site:
        """The site as it is after a restart."""

        def chance(_plan: Plan, number: int) -> Chance:
            randomness = SystemRandomness() if not seeded else SeededRandomness(bytes([number]))
            return Chance(samples=randomness, rounding=np.random.default_rng(number))

        return Site(
            name="north",
            encoder=LoraTraining(host=self.host, encoded=self.encoded, labels=()), consent=ByRules(self.rules), journal=self.journal,
            door=PlainDoor(name="north", rules=self.rules), chance=chance,
            purse=Purse(self.ledger, holding="h", fingerprint="f", units={"record": 12, "patient": 5}, coordinator="c"),
            watch=Watch(
                step=self._step, update=lambda n, u: self.rounds.append((n, u)), refusal=self.refusals.append
            ),
        )  # fmt: skip

    def _step(self, _number: int, _progress: Progress) -> None:
        if self.journal_at_first_step is None:
            self.journal_at_first_step = read_lines(self.journal)
            self.reserved_at_first_step = self.ledger.outstanding()

    def propose(self, plan: Plan | None = None) -> Answer:
        header = wire.encode(wire.Propose(plan=plan or self.plan))
        vector = wire.vector_bytes(self.frozen_F) + wire.vector_bytes(self.start_P)
        return self.site.handle(header, vector=vector)

    def open(self, number: int = 1, attempt: int = 1, **changes: Any) -> Answer:
        values = {"plan_sha256": self.plan.sha256, "adapter_sha256": digest(self.start_P), "summed": 0}
        values |= changes
        header = wire.encode(wire.Open(round=number, attempt=attempt, **values))
        return self.site.handle(header, vector=wire.vector_bytes(self.start_P))

    def roster(
        self, number: int = 1, attempt: int = 1, *, sites: tuple[str, ...] = ("east", "north", "west")
    ) -> Answer:
        header = wire.Roster(plan_sha256=self.plan.sha256, round=number, attempt=attempt, sites=sites)
        return self.site.handle(wire.encode(header))

    def ledger_says(self, number: int = 1, attempt: int = 1) -> str | None:
        return self.ledger.state(f"{self.plan.sha256}:{number}:{attempt}")


MakeBench = Callable[..., Bench]


def code(answer: Answer) -> str:
    """The code of a refusal, which is all that is sent; or the kind of another answer."""
    if wire.kind_of(answer.header) != "refuse":
        return wire.kind_of(answer.header)
    assert answer.vector == b""
    refusal = wire.decode(answer.header, wire.Refuse)
    assert refusal.site == "north"
    return refusal.code
