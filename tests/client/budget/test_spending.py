"""Costs are on record before a record is read, and final before a vector is sealed."""

from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from partsong.client.budget.ledger import Ledger
from partsong.client.budget.spending import Purse
from partsong.client.dp.sampler import SystemRandomness
from partsong.client.encoders.lora import LoraTraining
from partsong.client.rules.agreement import ByRules
from partsong.client.rules.consent import Rules
from partsong.client.secure_sum.door import Answer, PlainDoor
from partsong.client.site import Chance, Site, Watch
from partsong.common import wire
from partsong.common.adapters.adapter import digest
from partsong.common.errors import Refused, TryAgain
from partsong.common.plan import Plan
from partsong.common.privacy.accounting import StepEvents, epsilon, joint_multiplier
from partsong.common.privacy.terms import DpPlan
from partsong.common.secure_sum.fixed_point import WordVec

MakePlan = Callable[..., Plan]
RECORDS = 50


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    made = Ledger(tmp_path / "ledger.sqlite")
    made.set_ceiling("h", epsilon=8.0, delta=1e-4)
    yield made
    made.close()


def purse_of(ledger: Ledger, *, records: int = RECORDS, only: str | None = None) -> Purse:
    units: dict[Any, int | None] = {"record": records, "patient": None}
    return Purse(ledger, holding="h", fingerprint="f", units=units, coordinator="c", only=only)


@pytest.fixture
def private(make_plan: MakePlan, make_dp: Callable[..., DpPlan]) -> Plan:
    """A plan of three rounds of two steps under differential privacy."""
    return make_plan(dp=make_dp())


def test_a_round_costs_what_the_accountant_says(ledger: Ledger, private: Plan) -> None:
    """A second source: the steps of two rounds, composed by hand."""
    assert private.dp is not None
    purse = purse_of(ledger)
    for number in (1, 2):
        purse.commit(purse.reserve(private, number=number, attempt=1))

    sigma = joint_multiplier(gradient=private.dp.noise_multiplier, loss=private.dp.loss_noise_multiplier)
    four = StepEvents(sampling_rate=0.1, noise_multiplier=sigma, steps=4).at_site(records=RECORDS)

    assert ledger.spent("h").epsilon == pytest.approx(epsilon([four], delta=1e-4).epsilon)


def test_a_context_is_paid_for_once(ledger: Ledger, private: Plan) -> None:
    """Committed, released or open: the same round and attempt is never reserved again."""
    purse = purse_of(ledger)
    committed, released, open_ = (purse.reserve(private, number=n, attempt=1) for n in (1, 2, 3))
    purse.commit(committed)
    purse.release(released)

    for number in (1, 2, 3):
        with pytest.raises(Refused, match="context_used"):
            purse.reserve(private, number=number, attempt=1)
    assert purse.queries(private) == 2
    with pytest.raises(Refused, match="not_reserved"):
        purse.release(committed)
    with pytest.raises(Refused, match="not_reserved"):
        purse.commit(released)
    assert ledger.outstanding() == (open_,)


def test_rounds_are_counted_by_plan(ledger: Ledger, private: Plan, make_plan: MakePlan) -> None:
    """Another plan of the same ledger has its own."""
    purse = purse_of(ledger)
    purse.reserve(private, number=1, attempt=1)

    assert (purse.queries(private), purse.queries(make_plan(run="another"))) == (1, 0)


def test_what_a_crash_left_reserved_is_given_back_and_what_was_final_is_not(ledger: Ledger, private: Plan) -> None:
    """The next process names what it gave back."""
    purse = purse_of(ledger)
    purse.commit(purse.reserve(private, number=1, attempt=1))
    left = purse.reserve(private, number=2, attempt=1)

    assert purse_of(ledger).settle() == (left,)
    assert purse_of(ledger).settle() == ()
    assert purse.queries(private) == 1


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(own=st.sets(st.integers(1, 3)), others=st.sets(st.integers(1, 3)))
def test_what_another_plan_has_reserved_stays_reserved(
    tmp_path: Path, private: Plan, make_plan: MakePlan, make_dp: Callable[..., DpPlan], own: set[int], others: set[int]
) -> None:
    """Two plans share a ledger: a restart of one gives back exactly its own; the control gives back all."""
    ledger = Ledger(tmp_path / f"{len(list(tmp_path.iterdir()))}.sqlite")
    ledger.set_ceiling("h", epsilon=1000.0, delta=1e-4)
    purse, other = purse_of(ledger, only=private.sha256), make_plan(run="another", dp=make_dp())
    mine = {purse.reserve(private, number=n, attempt=1) for n in own}
    theirs = {purse_of(ledger).reserve(other, number=n, attempt=1) for n in others}

    given_back = purse.settle()

    assert (set(given_back), purse.outstanding()) == (mine, ())
    assert set(ledger.outstanding()) == theirs
    assert set(purse_of(ledger).settle()) == theirs
    ledger.close()


def test_work_that_outlived_its_process_goes_on_under_its_reservation(ledger: Ledger, private: Plan) -> None:
    """It is not given back, and found again once for the same records and cost; all else is as before."""
    first = purse_of(ledger)
    lives, died = (first.reserve(private, number=n, attempt=1) for n in (1, 2))
    purse, entries = purse_of(ledger), len(ledger.entries())

    assert purse.settle(keep=[lives, "another"]) == (died,)

    assert purse.outstanding() == (lives,)
    assert purse.resume(private, number=1, attempt=1) == lives
    assert len(ledger.entries()) == entries + 1
    with pytest.raises(Refused, match="not_reserved"):
        purse.resume(private, number=2, attempt=1)
    with pytest.raises(Refused, match="not_reserved"):
        purse.resume(private, number=1, attempt=2)
    with pytest.raises(Refused, match="other_claim"):
        purse_of(ledger, records=RECORDS + 1).resume(private, number=1, attempt=1)
    purse.commit(lives)
    with pytest.raises(Refused, match="not_reserved"):
        purse.resume(private, number=1, attempt=1)


def test_without_privacy_a_round_stands_in_the_ledger_without_a_cost(tmp_path: Path, make_plan: MakePlan) -> None:
    """A holding with a ceiling refuses it; one without takes it down."""
    ledger = Ledger(tmp_path / "l.sqlite")
    ledger.set_ceiling("h", epsilon=None, delta=1e-4)
    purse = purse_of(ledger)

    context = purse.reserve(make_plan(), number=1, attempt=1)

    assert ledger.state(context) == "reserved"
    ledger.set_ceiling("h", epsilon=8.0, delta=1e-4)
    with pytest.raises(Refused):
        purse.reserve(make_plan(), number=2, attempt=1)
    ledger.close()


# A real site whose ledger and door write down in which order they are used.


class WritingPurse(Purse):
    """A purse that notes each act, and can fail in one."""

    said: list[str]
    fails_at = ""

    def settle(self, *, keep: Collection[str] = ()) -> tuple[str, ...]:
        return self._do("settle", lambda: super(WritingPurse, self).settle(keep=keep))

    def reserve(self, plan: Plan, *, number: int, attempt: int) -> str:
        return self._do("reserve", lambda: super(WritingPurse, self).reserve(plan, number=number, attempt=attempt))

    def commit(self, context: str) -> None:
        self._do("commit", lambda: super(WritingPurse, self).commit(context))

    def release(self, context: str) -> None:
        self._do("release", lambda: super(WritingPurse, self).release(context))

    def _do(self, name: str, act: Callable[[], Any]) -> Any:
        result = act()
        self.said.append(name)
        if self.fails_at == name:
            raise TryAgain("the disk failed after it had taken the entry")
        return result


class WritingDoor(PlainDoor):
    """A door that notes each use."""

    said: list[str]

    def open(self, query: wire.Open, note: bytes) -> None:
        self.said.append("open")

    def enter(self, roster: wire.Roster, note: bytes, block: bytes) -> None:
        super().enter(roster, note, block)
        self.said.append("enter")

    def report(self, words_W: WordVec) -> tuple[bytes, bytes]:
        self.said.append("report")
        return super().report(words_W)


class Bench:
    """A site with a tiny model and a coordinator's words to it."""

    def __init__(self, host: Any, encoded: Any, plan: Plan, folder: Path) -> None:
        self.host, self.encoded, self.plan, self.folder = host, encoded, plan, folder
        self.frozen_F, self.start_P = host.take(trained=False), host.take()
        self.said: list[str] = []
        self.ledger = Ledger(folder / "ledger.sqlite")
        self.ledger.set_ceiling("h", epsilon=8.0, delta=1e-3)
        self.site = self.new_site()

    def new_site(self) -> Site:
        rules = Rules(minimum_records=1)
        units = {"record": 12, "patient": None}
        self.purse = WritingPurse(self.ledger, holding="h", fingerprint="f", units=units, coordinator="c")
        self.purse.said = self.said
        door = WritingDoor(name="north", rules=rules)
        door.said = self.said
        return Site(
            name="north", encoder=LoraTraining(host=self.host, encoded=self.encoded, labels=()), consent=ByRules(rules),
            journal=self.folder / "journal.jsonl", door=door, purse=self.purse,
            chance=lambda _p, _n: Chance(samples=SystemRandomness(), rounding=np.random.default_rng()),
            watch=Watch(step=lambda _n, _p: self.said.append("step")),
        )  # fmt: skip

    def propose(self) -> Answer:
        vector = wire.vector_bytes(self.frozen_F) + wire.vector_bytes(self.start_P)
        return self.site.handle(wire.encode(wire.Propose(plan=self.plan)), vector=vector)

    def open(self, number: int = 1) -> Answer:
        header = wire.Open(
            plan_sha256=self.plan.sha256, round=number, attempt=1, adapter_sha256=digest(self.start_P), summed=0
        )
        return self.site.handle(wire.encode(header), vector=wire.vector_bytes(self.start_P))

    def roster(self, number: int = 1) -> str:
        header = wire.Roster(plan_sha256=self.plan.sha256, round=number, attempt=1, sites=("a", "b", "north"))
        return wire.kind_of(self.site.handle(wire.encode(header)).header)

    def state(self, number: int = 1) -> str | None:
        return self.ledger.state(f"{self.plan.sha256}:{number}:1")


@pytest.fixture
def bench(
    make_host: Callable[..., Any],
    make_records: Callable[..., Any],
    make_encoded: Callable[..., Any],
    make_site_plan: Callable[..., Plan],
    tmp_path: Path,
) -> Iterator[Bench]:
    """Twelve records and a private plan, proposed."""
    host = make_host()
    plan = make_site_plan(host, privacy={"mode": "dp", "epsilon": 8.0, "delta": 1e-3})
    made = Bench(host, make_encoded(make_records((5, 7, 4) * 4)), plan, tmp_path)
    made.propose()
    yield made
    made.ledger.close()


def test_the_order_is_check_reserve_read_enter_commit_seal(bench: Bench) -> None:
    """No step without a reservation, no vector without a commit."""
    bench.open()
    bench.roster()

    assert bench.said == ["settle", "open", "reserve", "step", "step", "enter", "commit", "report"]


def test_a_round_that_is_given_up_is_paid_back_after_it_is_erased(bench: Bench) -> None:
    """The next query comes instead of a roster."""
    bench.open()
    waiting = bench.site._waiting
    assert waiting is not None
    bench.said.clear()

    bench.open(2)

    assert bench.said[:3] == ["release", "open", "reserve"]
    assert not waiting.update.update_P.any()
    assert (bench.state(1), bench.state(2)) == ("released", "reserved")


def test_a_commit_that_may_have_failed_seals_nothing_and_costs(bench: Bench) -> None:
    """The update is gone; the cost stays, and the next query is answered as usual."""
    bench.open()
    bench.purse.fails_at = "commit"

    with pytest.raises(TryAgain):
        bench.roster()
    bench.purse.fails_at = ""

    assert "report" not in bench.said
    assert bench.roster() == "refuse"
    assert bench.state() == "committed"
    assert wire.kind_of(bench.open(2).header) == "ready"


def test_a_journal_that_cannot_be_written_gives_the_reservation_back(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No record was read, so nothing is owed."""

    def full(_file: Path, _line: object) -> None:
        raise TryAgain("journal.jsonl: no space left")

    monkeypatch.setattr("partsong.client.site.append_line", full)

    with pytest.raises(TryAgain, match="no space left"):
        bench.open()

    assert bench.said == ["settle", "open", "reserve", "release"]
    assert bench.state() == "released"


def test_a_reservation_that_may_have_failed_reads_nothing(bench: Bench) -> None:
    """It counts until the next start, which gives it back."""
    bench.purse.fails_at = "reserve"

    with pytest.raises(TryAgain):
        bench.open()

    assert "step" not in bench.said
    assert bench.state() == "reserved"
    bench.site = bench.new_site()
    assert bench.state() == "released"


def test_two_processes_on_one_ledger_never_seal_what_is_not_paid(bench: Bench) -> None:
    """A second run in the same directory settles the first one's reservation: the first can commit no more."""
    bench.open()
    second = bench.new_site()

    with pytest.raises(Refused, match="not_reserved"):
        bench.roster()

    assert second is not bench.site
    assert "report" not in bench.said
    assert bench.state() == "released"
