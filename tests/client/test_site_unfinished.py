"""A site whose process breaks off and starts again over the same files."""

import dataclasses
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from one_machine import PRIVATE, STEPS, Killed, Machine

from partsong.client.data.encode import Encoded, Record
from partsong.client.encoders.lazy import LazyLora
from partsong.client.encoders.lora import LoraTraining
from partsong.client.model.host import ModelHost
from partsong.client.rules.consent import Facts
from partsong.client.secure_sum.door import Answer
from partsong.client.training.train import TrainingFailed
from partsong.common import wire
from partsong.common.config import TrainingConfig
from partsong.common.errors import PartsongError
from partsong.common.plan import Plan

MakeMachine = Callable[..., Machine]


@pytest.fixture
def make_machine(
    make_host: Callable[..., ModelHost],
    make_records: Callable[..., tuple[Record, ...]],
    make_encoded: Callable[..., Encoded],
    make_site_plan: Callable[..., Plan],
    tmp_path: Path,
) -> Iterator[MakeMachine]:
    """Machines with twelve records and a plan of three steps a round."""
    made: list[Machine] = []

    def make(**config: Any) -> Machine:
        host, encoded = make_host(), make_encoded(make_records((5, 7, 4) * 4))
        plan = make_site_plan(host, **{"training": TrainingConfig(steps_per_round=STEPS)} | config)
        made.append(Machine(tmp_path / f"site {len(made)}", host, encoded, plan))
        return made[-1]

    yield make
    for machine in made:
        machine.end()


def kind(answer: Answer) -> str:
    """Of an answer; of a refusal its code."""
    found = wire.kind_of(answer.header)
    return found if found != "refuse" else wire.decode(answer.header, wire.Refuse).code


def test_a_round_that_broke_off_seals_the_words_of_one_that_did_not(make_machine: MakeMachine) -> None:
    """After each of its steps, and with one reservation: the report is the same, bit by bit."""
    whole = make_machine()
    whole.propose()
    whole.open()
    expected = whole.roster()
    reports, states = [], []
    for after in range(1, STEPS + 1):
        machine = make_machine()

        machine.break_off(after=after)
        assert machine.says() == "reserved"
        assert kind(machine.open()) == "ready"

        reports.append(machine.roster())
        states.append((machine.says(), machine.steps, machine.files()))
    assert [r.vector for r in reports] == [expected.vector] * STEPS
    assert states == [("committed", [1, 2, 3], [])] * STEPS
    assert len(expected.vector) > 0


class OfADaemon(LazyLora):
    """The encoder of a daemon, whose model and records are there."""

    def __init__(self, host: ModelHost, encoded: Encoded) -> None:
        self._there = host, encoded

    def facts(self, plan: Plan) -> Facts:
        return LoraTraining(host=self._there[0], encoded=self._there[1], labels=()).facts(plan)

    def ready(self, plan: Plan) -> tuple[ModelHost, Encoded]:
        return self._there


def test_a_daemon_goes_on_with_a_round_that_broke_off(
    make_machine: MakeMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its encoder, which builds the model on first need, takes no step twice either."""
    monkeypatch.setattr(Machine, "encoder", lambda machine: OfADaemon(machine.host, machine.encoded))
    machine = make_machine()

    machine.break_off(after=2)

    assert kind(machine.open()) == "ready"
    assert machine.steps == [1, 2, 3]


def test_without_a_store_the_round_is_lost(make_machine: MakeMachine) -> None:
    """The control, and how it is without this: given back, refused, nothing left."""
    machine = make_machine()
    machine.boot(keeps=False)
    machine.propose()
    machine.kill_after = 2
    with pytest.raises(Killed):
        machine.open()
    machine.boot(keeps=False)
    machine.propose()

    assert kind(machine.open()) == "state"

    assert machine.says() == "released"
    assert machine.files() == []


def test_a_private_round_goes_on_with_one_reservation_and_one_event_for_each_step(make_machine: MakeMachine) -> None:
    """What is sealed says as many steps as the ledger holds."""
    machine = make_machine(privacy=PRIVATE)
    machine.break_off(after=2)

    assert kind(machine.open()) == "ready"
    assert kind(machine.roster()) == "report"

    assert machine.plan.dp is not None
    size = machine.plan.layout.size(trained=True)
    assert machine.updates[-1].events == (machine.plan.dp.events(steps=STEPS, size=size),)
    assert [e.kind for e in machine.ledger.entries() if e.kind in ("reserved", "committed", "released")] == [
        "reserved", "committed",
    ]  # fmt: skip


def test_the_last_paid_round_of_a_plan_can_be_gone_on_with(make_machine: MakeMachine) -> None:
    """It is paid for, so it does not count against itself."""
    machine = make_machine(privacy=PRIVATE, rounds=1)
    machine.break_off(after=1)

    assert kind(machine.open()) == "ready"


@pytest.mark.parametrize("asks_again", [True, False])
def test_a_waiting_update_outlives_its_process_and_is_sealed_once(make_machine: MakeMachine, asks_again: bool) -> None:  # noqa: FBT001 - a case
    """With the query delivered again, which trains nothing, or the roster alone; and then it is gone."""
    machine = make_machine(privacy=PRIVATE)
    machine.propose()
    ready = machine.open()
    machine.boot()
    machine.propose()

    if asks_again:
        assert machine.open() == ready
    report = machine.roster()

    assert kind(report) == "report"
    assert machine.steps == [1, 2, 3]
    assert machine.files() == []
    assert kind(machine.roster()) == "state"
    machine.boot()
    machine.propose()
    assert kind(machine.open()) == "state"
    assert kind(machine.roster()) == "state"
    assert machine.says() == "committed"


def test_a_query_is_answered_once_in_the_process_that_went_on_with_it(make_machine: MakeMachine) -> None:
    """What is gone on with is no longer left: the replay rule holds again, and the update is erased."""
    machine = make_machine(privacy=PRIVATE)
    machine.break_off(after=1)
    assert kind(machine.open()) == "ready"

    assert kind(machine.open()) == "state"

    assert machine.steps == [1, 2, 3]
    assert machine.files() == []
    assert machine.says() == "released"


def test_a_copy_that_is_put_back_after_sealing_is_erased(make_machine: MakeMachine, tmp_path: Path) -> None:
    """Folder and vault together, from before the roster: the ledger knows better."""
    machine = make_machine(privacy=PRIVATE)
    machine.propose()
    machine.open()
    for name in ("vault", "unfinished"):
        shutil.copytree(machine.disk / name, tmp_path / "copy" / name)
    assert kind(machine.roster()) == "report"
    machine.end()
    for name in ("vault", "unfinished"):
        shutil.rmtree(machine.disk / name)
        shutil.copytree(tmp_path / "copy" / name, machine.disk / name)
    assert machine.files() != []
    machine.boot()
    machine.propose()

    assert machine.files() == []
    assert kind(machine.roster()) == "state"
    assert kind(machine.open()) == "state"
    assert machine.says() == "committed"


def test_another_query_ends_what_was_left(make_machine: MakeMachine) -> None:
    """A new attempt, and the same place with another adapter: erased, given back, never sealed."""
    for attempt, shift, answer in ((2, 0.0, "ready"), (1, 0.5, "state")):
        machine = make_machine()
        machine.break_off(after=2)

        assert kind(machine.open(1, attempt, shift=shift)) == answer

        assert machine.says(1, 1) == "released"
        assert machine.steps == [1, 2, *([1, 2, 3] if answer == "ready" else [])]
        assert kind(machine.roster()) == "state"


def test_records_that_changed_meanwhile_end_the_round(make_machine: MakeMachine) -> None:
    """What was paid for is not what would be computed; a new round is."""
    machine = make_machine(privacy=PRIVATE)
    machine.fingerprint = "f"
    machine.propose()
    machine.kill_after = 1
    with pytest.raises(Killed):
        machine.open()
    machine.fingerprint = "g"
    machine.boot()
    machine.propose()

    assert kind(machine.open()) == "state"
    assert "other_claim" in str(machine.refusals[-1])

    assert machine.steps == [1]
    assert kind(machine.roster()) == "state"
    assert kind(machine.open(2)) == "ready"
    assert machine.says(1) == "released"


def test_a_damaged_note_ends_the_round(make_machine: MakeMachine) -> None:
    """The query fails, and all of it is gone."""
    machine = make_machine(privacy=PRIVATE)
    machine.break_off(after=1)
    (name,) = machine.files()
    path = machine.disk / "unfinished" / name
    path.write_bytes(path.read_bytes()[:-1])

    with pytest.raises(PartsongError, match="does not open"):
        machine.open()

    assert machine.files() == []
    assert machine.says() == "released"


class Plainly:
    """An encoder that knows nothing of bookmarks."""

    resumes = False

    def __init__(self, training: LoraTraining) -> None:
        self.facts, self.encode = training.facts, training.encode


def test_an_encoder_without_bookmarks_begins_anew_and_its_update_still_outlives(
    make_machine: MakeMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The steps are taken again, because nothing of them was kept; what waits is kept for any encoder."""
    encoder = Machine.encoder
    monkeypatch.setattr(Machine, "encoder", lambda self: Plainly(encoder(self)))
    machine = make_machine()
    machine.break_off(after=2)
    assert kind(machine.open()) == "ready"
    assert machine.steps == [1, 2, 1, 2, 3]
    machine.boot()
    machine.propose()

    assert kind(machine.roster()) == "report"


def test_a_process_that_is_told_to_stop_goes_on_itself(make_machine: MakeMachine) -> None:
    """An interrupt is no failure: the note and the reservation stay, also without a restart."""
    machine = make_machine()
    machine.propose()
    machine.kill_after = 1
    with pytest.raises(Killed):
        machine.open()

    assert kind(machine.open()) == "ready"

    assert machine.steps == [1, 2, 3]
    assert kind(machine.roster()) == "report"


def test_a_failure_of_training_leaves_nothing(make_machine: MakeMachine) -> None:
    """Erased and given back, as without a store."""
    machine = make_machine()
    machine.propose()
    machine.kill_after, machine.end_by = 2, TrainingFailed

    with pytest.raises(TrainingFailed):
        machine.open()

    assert machine.files() == []
    assert machine.says() == "released"


def test_a_plan_that_is_proposed_again_keeps_what_waits(make_machine: MakeMachine) -> None:
    """A coordinator that starts again asks for nothing twice; another plan ends it."""
    machine = make_machine()
    machine.propose()
    machine.open()
    machine.propose()
    assert kind(machine.roster()) == "report"
    machine.open(2)
    mine = machine.plan
    machine.plan = dataclasses.replace(mine, run="another")

    machine.propose()

    assert machine.files() == []
    assert machine.ledger.state(f"{mine.sha256}:2:1") == "released"
