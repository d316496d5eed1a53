"""A site's side of the protocol, message by message."""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from partsong.client.budget.ledger import Ledger
from partsong.client.budget.spending import Purse
from partsong.client.data.encode import Encoded, Record
from partsong.client.dp.sampler import SeededRandomness, SystemRandomness
from partsong.client.encoders.encoder import LocalUpdate, Progress
from partsong.client.encoders.lora import LoraTraining
from partsong.client.model.host import ModelHost
from partsong.client.rules.agreement import ByRules
from partsong.client.rules.consent import Rules
from partsong.client.secure_sum.door import Answer, PlainDoor
from partsong.client.site import Chance, Site, Watch
from partsong.client.training.train import TrainingFailed
from partsong.common import wire
from partsong.common.adapters.adapter import digest
from partsong.common.config import SecureSumConfig, TrainingConfig
from partsong.common.errors import DataError, PartsongError, Refused, TryAgain, WireError
from partsong.common.files import read_lines
from partsong.common.plan import LOSS, UPDATE, Plan, rotation_seed
from partsong.common.privacy.accounting import joint_multiplier
from partsong.common.secure_sum.fixed_point import decode_sum

MakeRecords = Callable[..., tuple[Record, ...]]
RULES = Rules(allow_without_privacy=True, minimum_records=1)
PRIVATE = {"mode": "dp", "epsilon": 8.0, "delta": 1e-3}
KINDS = {
    "plain": {},
    "private": PRIVATE,
    "discrete": PRIVATE | {"noise": "discrete"},
    "patients": PRIVATE | {"unit": "patient", "contribution_bound": 2},
    "patients, discrete": PRIVATE | {"unit": "patient", "contribution_bound": 2, "noise": "discrete"},
}


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


@pytest.fixture
def make_bench(
    make_host: Callable[..., ModelHost],
    make_records: MakeRecords,
    make_encoded: Callable[..., Encoded],
    make_site_plan: Callable[..., Plan],
    tmp_path: Path,
) -> Iterator[MakeBench]:
    """A site with twelve records and a plan that fits it."""

    def make(*, rules: Rules = RULES, **config: Any) -> Bench:
        host = make_host()
        records = make_records((5, 7, 4) * 4)
        encoded = make_encoded(tuple(dataclasses.replace(r, unit=f"p{i % 5}") for i, r in enumerate(records)))
        folder = tmp_path / "site"
        folder.mkdir()
        made.append(Bench(host, encoded, make_site_plan(host, **config), folder / "journal.jsonl", rules))
        return made[-1]

    made: list[Bench] = []
    yield make
    for bench in made:
        bench.ledger.close()


def code(answer: Answer) -> str:
    """The code of a refusal, which is all that is sent; or the kind of another answer."""
    if wire.kind_of(answer.header) != "refuse":
        return wire.kind_of(answer.header)
    assert answer.vector == b""
    refusal = wire.decode(answer.header, wire.Refuse)
    assert refusal.site == "north"
    return refusal.code


@pytest.mark.parametrize("privacy", KINDS.values(), ids=KINDS)
def test_a_round_leaves_the_sealed_update_and_nothing_else(make_bench: MakeBench, privacy: dict[str, Any]) -> None:
    """Accept, ready, report; the words decode to the site's update and released loss."""
    bench = make_bench(privacy=privacy)

    accepted, ready = bench.propose(), bench.open()
    report = bench.roster()

    assert wire.decode(accepted.header, wire.Accept) == wire.Accept(site="north", plan_sha256=bench.plan.sha256)
    assert wire.decode(ready.header, wire.Ready) == wire.Ready(site="north", round=1, attempt=1)
    assert (accepted.vector, ready.vector) == (b"", b"")
    assert wire.decode(report.header, wire.Report) == wire.Report(site="north", round=1, attempt=1)
    ((number, update),) = bench.rounds
    words = wire.words(report.vector, size=bench.plan.encoding.words())
    seed = rotation_seed(bench.plan.sha256, number=1)
    opened = decode_sum(words, bench.plan.encoding, sites=1, rotation_seed=seed)
    assert number == 1
    assert opened[UPDATE] == pytest.approx(update.update_P, abs=1e-6)
    assert opened[LOSS] == pytest.approx([update.loss], abs=1e-6)
    assert np.abs(update.update_P).max() > 1e-4


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "plain"])
def test_a_round_records_the_events_that_the_plan_announced(make_bench: MakeBench, kind: str) -> None:
    """Rate, accounted noise, steps and unit: what a ledger reserves is what sampler and optimizer then do."""
    bench = make_bench(privacy=KINDS[kind])
    bench.propose()
    bench.open()

    ((_, update),) = bench.rounds

    dp, training = bench.plan.dp, bench.plan.training
    assert dp is not None
    assert update.events == (dp.events(steps=training.steps_per_round, size=bench.plan.layout.size(trained=True)),)
    assert update.events[0].unit == ("patient" if "patients" in kind else "record")
    assert ("discrete" in kind) is (
        update.events[0].noise_multiplier < joint_multiplier(dp.noise_multiplier, dp.loss_noise_multiplier) * (1 - 1e-9)
    )


def test_a_plan_for_patients_is_refused_where_records_have_no_owner(
    make_bench: MakeBench, make_records: MakeRecords, make_encoded: Callable[..., Encoded]
) -> None:
    """Before a record is read."""
    bench = make_bench(privacy=KINDS["patients"])
    bench.encoded = make_encoded(make_records((5, 7, 4) * 4))
    bench.site = bench.new_site()

    assert code(bench.propose()) == "data"


def test_the_query_is_in_the_journal_before_the_first_step(make_bench: MakeBench) -> None:
    """A crash in training cannot make the site forget what it spent."""
    bench = make_bench()
    bench.propose()

    bench.open(2, 3)

    assert bench.journal_at_first_step == [{"plan": bench.plan.sha256, "round": 2, "attempt": 3}]
    assert bench.reserved_at_first_step == (f"{bench.plan.sha256}:2:3",)


def test_a_journal_that_cannot_be_written_stops_the_round_before_it_reads(make_bench: MakeBench) -> None:
    """No line, no training."""
    bench = make_bench()
    bench.propose()
    bench.journal.mkdir(parents=True)

    with pytest.raises((TryAgain, OSError)):
        bench.open()

    assert bench.rounds == []
    assert code(bench.roster()) == "state"


def test_an_update_is_sealed_once(make_bench: MakeBench) -> None:
    """A second roster, of whatever sites, finds nothing: two rosters would open a difference."""
    bench = make_bench()
    bench.propose()
    bench.open()

    answers = [code(bench.roster()), code(bench.roster()), code(bench.roster(sites=("a", "b", "north")))]

    assert answers == ["report", "state", "state"]


@pytest.mark.parametrize(
    ("sites", "expected"),
    [
        (("east", "west", "south"), "state"),
        (("east", "north"), "policy"),
        (("north", "north", "north"), "policy"),
        (("east", "north", "north"), "policy"),
        (("east", "north", "west", "x"), "policy"),
        ((), "state"),
        (("east", "north", "west"), "report"),
    ],
)
def test_a_roster_without_this_site_or_below_the_floor_seals_nothing(
    make_bench: MakeBench, sites: tuple[str, ...], expected: str
) -> None:
    """Names count once, and a sum of more sites than the encoding has room for is no sum; the update stays unused."""
    bench = make_bench()
    bench.propose()
    bench.open()

    assert code(bench.roster(sites=sites)) == expected
    assert code(bench.roster()) == ("report" if expected != "report" else "state")


@pytest.mark.parametrize(("number", "attempt"), [(2, 1), (1, 2)])
def test_a_roster_of_another_round_seals_nothing(make_bench: MakeBench, number: int, attempt: int) -> None:
    """The update belongs to one round and attempt."""
    bench = make_bench()
    bench.propose()
    bench.open()

    assert code(bench.roster(number, attempt)) == "state"
    assert code(bench.roster()) == "report"


def test_nothing_is_done_without_a_plan(make_bench: MakeBench) -> None:
    """OPEN and ROSTER before an accepted plan are refused, also after a refused one."""
    bench = make_bench(rules=Rules())

    assert (code(bench.open()), code(bench.roster())) == ("state", "state")
    assert code(bench.propose()) in {"data", "policy"}
    assert code(bench.open()) == "state"
    assert not bench.journal.exists()


def test_a_new_query_drops_the_update_that_waits(make_bench: MakeBench) -> None:
    """Also when the new query is refused: at most one update waits, that of the last query."""
    bench = make_bench()
    bench.propose()
    bench.open()

    assert code(bench.open(plan_sha256="other")) == "plan"
    assert code(bench.roster()) == "state"


def test_a_replayed_query_is_refused_also_after_a_restart(make_bench: MakeBench) -> None:
    """The journal outlives the process."""
    bench = make_bench()
    bench.propose()
    assert code(bench.open(2)) == "ready"
    bench.site = bench.new_site()
    bench.propose()

    assert [code(bench.open(n, a)) for n, a in ((2, 1), (1, 1), (1, 9), (2, 2))] == ["state", "state", "state", "ready"]


def test_under_privacy_a_plan_is_paid_for_once(make_bench: MakeBench) -> None:
    """Two rounds that were sealed are all that a plan of two rounds gets, whatever they are called."""
    bench = make_bench(privacy=PRIVATE, rounds=2)
    bench.propose()

    answers = [code(answer) for attempt in (1, 2) for answer in (bench.open(1, attempt), bench.roster(1, attempt))]

    assert answers == ["ready", "report"] * 2
    assert code(bench.open(2)) == "budget"
    assert [bench.ledger_says(1, attempt) for attempt in (1, 2)] == ["committed", "committed"]


def test_a_round_that_never_had_a_roster_costs_nothing(make_bench: MakeBench) -> None:
    """Its update is erased before its cost is given back, so nobody ever learned anything from it."""
    bench = make_bench(privacy=PRIVATE, rounds=2)
    bench.propose()
    spent = bench.ledger.spent("h").epsilon

    answers = [code(bench.open(1, attempt)) for attempt in (1, 2, 3, 4)]
    waiting = bench.site._waiting
    bench.propose()

    assert answers == ["ready"] * 4
    assert [bench.ledger_says(1, attempt) for attempt in (1, 2, 3, 4)] == ["released"] * 4
    assert bench.ledger.spent("h").epsilon == spent == 0
    assert waiting is not None
    assert not waiting.update.update_P.any()
    assert code(bench.roster(1, 4)) == "state"


def test_a_crash_before_the_roster_costs_nothing_and_one_after_it_does(make_bench: MakeBench) -> None:
    """An update lives in memory until it is paid for: a new process gives back what is only reserved."""
    bench = make_bench(privacy=PRIVATE)
    bench.propose()
    bench.open(1)
    bench.roster(1)
    bench.open(2)
    assert (bench.ledger_says(1), bench.ledger_says(2)) == ("committed", "reserved")

    bench.site = bench.new_site()

    assert (bench.ledger_says(1), bench.ledger_says(2)) == ("committed", "released")


def test_a_query_over_the_budget_is_refused_before_a_record_is_read(make_bench: MakeBench) -> None:
    """The coordinator learns `budget`; rule and numbers are told to the operator."""
    bench = make_bench(privacy=PRIVATE)
    bench.propose()
    bench.ledger.set_ceiling("h", epsilon=0.5, delta=1e-3)

    answer = bench.open()

    assert code(answer) == "budget"
    assert bench.rounds == []
    assert bench.journal_at_first_step is None
    assert bench.refusals[-1].rule == "over_budget"


def test_failed_training_costs_nothing(make_bench: MakeBench) -> None:
    """Nothing of it was sealed; the reservation is given back and no update waits."""
    bench = make_bench(
        training=TrainingConfig(optim="sgd", learning_rate=1e38, steps_per_round=3),
        secure_sum=SecureSumConfig(mode="off", update_clip=1.0),
    )
    bench.site = bench.new_site(seeded=True)  # some samples leave gradients that are too small to fail
    bench.propose()

    with pytest.raises(TrainingFailed):
        bench.open()

    assert bench.ledger_says() == "released"
    assert code(bench.roster()) == "state"


def test_a_message_that_no_site_takes_is_refused(make_bench: MakeBench) -> None:
    """Answers of sites, and kinds that do not exist."""
    bench = make_bench()
    ready = wire.Ready(site="north", round=1, attempt=1)

    for header in (wire.encode(ready), b'{"body":{},"kind":"eval","wire":1}'):
        with pytest.raises(WireError, match="no site takes"):
            bench.site.handle(header)


def test_an_unmasked_site_knows_no_step_of_the_secure_sum(make_bench: MakeBench) -> None:
    """Each is refused by its code, and nothing is sealed by it."""
    bench = make_bench()
    bench.propose()
    bench.open()
    plan = bench.plan.sha256
    steps = [
        wire.Keys(plan_sha256=plan, step="begin"), wire.Confirm(plan_sha256=plan, round=1, attempt=1),
        wire.Unmask(plan_sha256=plan, round=1, attempt=1), wire.Result(plan_sha256=plan, summed=1, adapter_sha256=""),
    ]  # fmt: skip

    assert [code(bench.site.handle(wire.encode(step), note=b"x")) for step in steps] == ["plan"] * 4
    assert code(bench.roster()) == "report"


@pytest.mark.parametrize("masked", [True, False])
def test_a_site_takes_plans_of_its_own_kind_of_sum_only(make_bench: MakeBench, *, masked: bool) -> None:
    """A site without a charter refuses a masked plan, which it could not keep; the control is its own kind."""
    bench = make_bench()

    answer = bench.propose(dataclasses.replace(bench.plan, masked=masked))

    assert code(answer) == ("policy" if masked else "accept")


def test_a_torn_line_of_the_journal_costs_nothing_and_a_damaged_one_stops(make_bench: MakeBench) -> None:
    """A torn line was never acted on. A line that says nothing leaves open what was spent."""
    bench = make_bench()
    bench.propose()
    bench.open()
    with bench.journal.open("ab") as file:
        file.write(b'{"plan": "')

    assert code(bench.open(2)) == "ready"
    assert [line["round"] for line in read_lines(bench.journal)] == [1, 2]
    with bench.journal.open("ab") as file:
        file.write(b"7\n")
    with pytest.raises(DataError, match="no query"):
        bench.open(3)


def test_a_frozen_part_other_than_the_plans_is_refused(make_bench: MakeBench) -> None:
    """A coordinator could otherwise give each site another A."""
    bench = make_bench()
    bench.frozen_F = bench.frozen_F + np.float32(1)

    with pytest.raises(WireError, match="frozen part"):
        bench.propose()
    assert code(bench.open()) == "state"


def test_an_adapter_other_than_the_headers_costs_nothing(make_bench: MakeBench) -> None:
    """Refused before the journal is written."""
    bench = make_bench()
    bench.propose()

    with pytest.raises(WireError, match="the adapter is not the one"):
        bench.open(adapter_sha256="0" * 64)
    bench.start_P = bench.start_P[:-1]
    with pytest.raises(WireError, match="expected"):
        bench.open()

    assert not bench.journal.exists()
    assert bench.rounds == []


def test_refusals_of_a_plan_carry_a_code_only(make_bench: MakeBench) -> None:
    """Another base is `model`; neither rule nor number is sent."""
    bench = make_bench()
    odd = dataclasses.replace(bench.plan, base_sha256="0" * 64)

    answer = bench.propose(odd)

    assert code(answer) == "model"
    assert set(wire.decode(answer.header, wire.Refuse).__slots__) == {"site", "code"}


def test_options_survive_the_wire(make_bench: MakeBench, make_host: Callable[..., ModelHost]) -> None:
    """A plan with free LoRA options, as decoded, is the plan of the same model."""
    bench = make_bench()
    bench.host = make_host(peft={"rank_pattern": {"q_proj": 2}, "layers_pattern": None, "exclude_modules": ("k_proj",)})
    bench.frozen_F = bench.host.take(trained=False)
    bench.plan = dataclasses.replace(
        bench.plan, lora=bench.host.lora_options, layout=bench.host.layout, frozen_sha256=digest(bench.frozen_F)
    )
    bench.site = bench.new_site()

    assert code(bench.propose()) == "accept"


def test_seeded_samples_are_refused_under_privacy(make_bench: MakeBench) -> None:
    """Even if a site was wired with them."""
    bench = make_bench(privacy=PRIVATE)
    bench.site = bench.new_site(seeded=True)
    bench.propose()

    with pytest.raises(Refused, match="predictable_sample"):
        bench.open()
    assert code(bench.roster()) == "state"
