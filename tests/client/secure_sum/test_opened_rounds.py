"""A coordinator that opens rounds and completes none spends nothing at a site, and is stopped at the policy's cap."""

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from partsong.client.budget.books import Grant
from partsong.client.budget.ledger import Ledger
from partsong.client.budget.ledger_export import verify
from partsong.client.budget.spending import Purse
from partsong.client.dp.sampler import SystemRandomness
from partsong.client.encoders.lora import LoraTraining
from partsong.client.rules.agreement import ByRules
from partsong.client.rules.consent import NotAgreed, Rules
from partsong.client.rules.policy import HoldingPolicy
from partsong.client.secure_sum.door import PlainDoor
from partsong.client.site import Chance, Site, Watch
from partsong.common import wire
from partsong.common.adapters.adapter import digest
from partsong.common.build import sha256_of
from partsong.common.config import TrainingConfig
from partsong.common.errors import PartsongError
from partsong.common.files import read_lines
from partsong.common.plan import Plan
from partsong.common.privacy.accounting import epsilon

DELTA, DAY_S = 1e-3, 86_400
RECORDS = 12


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """In memory where the system has such a folder: thousands of waits for a disk are not what is tested here."""
    memory = Path("/dev/shm")
    if not (memory.is_dir() and os.access(memory, os.W_OK)):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory) as name:
        yield Path(name)


class Bench:
    """A site whose holding has room for one round and no more, and a coordinator's words to it."""

    def __init__(self, host: Any, encoded: Any, plan: Plan, folder: Path) -> None:
        self.host, self.encoded, self.plan, self.folder, self.now = host, encoded, plan, folder, 20_000.0 * DAY_S
        self.frozen_F, self.start_P = host.take(trained=False), host.take()
        self.trained: list[int] = []
        self.refusals: list[PartsongError] = []
        self.ledger = Ledger(folder / "ledger.sqlite", clock=lambda: self.now)
        assert plan.dp is not None
        steps = plan.dp.events(steps=plan.training.steps_per_round, size=plan.layout.size(trained=True))
        self.once = epsilon([steps.at_site(records=RECORDS)], delta=DELTA).epsilon

    def start(self, grant: Grant) -> None:
        self.ledger.adopt({"h": grant})
        rules = Rules(minimum_records=1, max_epsilon=50.0)
        units = {"record": RECORDS, "patient": None}
        self.site = Site(
            name="north", encoder=LoraTraining(host=self.host, encoded=self.encoded, labels=()), consent=ByRules(rules),
            journal=self.folder / "journal.jsonl", door=PlainDoor(name="north", rules=rules),
            purse=Purse(self.ledger, holding="h", fingerprint="f", units=units, coordinator="c"),
            chance=lambda _p, _n: Chance(samples=SystemRandomness(), rounding=np.random.default_rng()),
            watch=Watch(update=lambda number, _update: self.trained.append(number), refusal=self.refusals.append),
        )  # fmt: skip
        vector = wire.vector_bytes(self.frozen_F) + wire.vector_bytes(self.start_P)
        assert self._ask(wire.Propose(plan=self.plan), vector) == "accept"

    def open(self, *, number: int = 1, attempt: int) -> str:
        header = wire.Open(
            plan_sha256=self.plan.sha256, round=number, attempt=attempt, adapter_sha256=digest(self.start_P), summed=0
        )
        return self._ask(header, wire.vector_bytes(self.start_P))

    def roster(self, *, number: int = 1, attempt: int) -> str:
        sites = ("east", "north", "west")
        return self._ask(wire.Roster(plan_sha256=self.plan.sha256, round=number, attempt=attempt, sites=sites), b"")

    def _ask(self, message: Any, vector: bytes) -> str:
        """Give the kind of the answer, or the code of a refusal."""
        answer = self.site.handle(wire.encode(message), vector=vector)
        kind = wire.kind_of(answer.header)
        return wire.decode(answer.header, wire.Refuse).code if kind == "refuse" else kind


@pytest.fixture
def bench(
    make_host: Callable[..., Any],
    make_records: Callable[..., Any],
    make_encoded: Callable[..., Any],
    make_site_plan: Callable[..., Plan],
    folder: Path,
) -> Iterator[Bench]:
    """Twelve records of which a step draws hardly one."""
    host = make_host()
    plan = make_site_plan(
        host,
        privacy={"mode": "dp", "epsilon": 50.0, "delta": DELTA, "noise_multiplier": 0.45, "sampling_rate": 0.01},
        training=TrainingConfig(steps_per_round=1),
    )
    made = Bench(host, make_encoded(make_records((3,) * RECORDS)), plan, folder)
    yield made
    made.ledger.close()


@pytest.mark.parametrize("count", [200, pytest.param(1000, marks=pytest.mark.nightly)])
def test_rounds_that_are_opened_and_never_completed_spend_nothing(bench: Bench, count: int) -> None:
    """Each trains and none is paid for; afterwards the one round that the budget holds is completed, and no more."""
    bench.start(Grant(epsilon=bench.once, delta=DELTA))

    answers = {bench.open(attempt=attempt) for attempt in range(1, count + 1)}
    bench.start(Grant(epsilon=bench.once, delta=DELTA))

    assert answers == {"ready"}
    assert (bench.ledger.spent("h").epsilon, bench.ledger.outstanding()) == (0.0, ())
    assert len(bench.trained) == len(read_lines(bench.folder / "journal.jsonl")) == count
    assert (bench.open(attempt=count + 1), bench.roster(attempt=count + 1)) == ("ready", "report")
    assert bench.ledger.spent("h").epsilon == pytest.approx(bench.once)
    assert bench.open(number=2, attempt=1) == "budget"  # control: what completes does cost
    assert bench.ledger.outstanding() == ()
    assert len(bench.ledger.holding("h").claims) == 1
    assert verify(bench.ledger).entries == 2 + 2 * count + 2


def test_a_long_journal_does_not_make_a_site_hash_the_plan_more_often(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plan of a large model takes milliseconds to hash, and a coordinator makes the journal as long as it likes."""
    bench.start(Grant(epsilon=None, delta=DELTA))
    hashed: list[Plan] = []
    monkeypatch.setattr("partsong.common.plan.sha256_of", lambda plan: hashed.append(plan) or sha256_of(plan))
    vars(bench.plan).pop("sha256", None)  # a plan knows its own hash once it was asked

    for attempt in range(2, 12):
        assert bench.open(attempt=attempt) == "ready"

    assert len(hashed) == 1


def test_the_cap_of_the_policy_stops_them_by_name_before_a_record_is_read(bench: Bench) -> None:
    """The eleventh of a day, however the coordinator counts; it learns `budget`, the operator the rule."""
    bench.start(HoldingPolicy(epsilon=bench.once, delta=DELTA, unfinished_per_day=10).grant)

    answers = [bench.open(attempt=attempt) for attempt in range(1, 11)]
    answers += [bench.open(attempt=11), bench.open(number=2, attempt=1), bench.open(number=3, attempt=1)]

    assert answers == ["ready"] * 10 + ["budget"] * 3
    assert len(bench.trained) == len(read_lines(bench.folder / "journal.jsonl")) == 10
    assert [no.rule for no in bench.refusals if isinstance(no, NotAgreed)] == ["too_many_unfinished"] * 3
    assert bench.ledger.spent("h").epsilon == 0.0


def test_the_cap_counts_what_leads_to_no_sum_and_only_for_a_day(bench: Bench) -> None:
    """A round that is completed frees its place, and the next day there are new ones."""
    bench.start(Grant(epsilon=None, delta=DELTA, unfinished_per_day=2))

    first = [bench.open(attempt=1), bench.open(attempt=2), bench.roster(attempt=2), bench.open(attempt=3)]
    stopped = bench.open(attempt=4)
    bench.now += DAY_S
    after = [bench.open(attempt=5), bench.roster(attempt=5)]

    assert (first, stopped, after) == (["ready", "ready", "report", "ready"], "budget", ["ready", "report"])
    assert len(bench.ledger.holding("h").claims) == 2
