"""What a query costs a site, and what stands in its journal before a record is read."""

import pytest
from site_bench import PRIVATE, MakeBench, code

from partsong.client.training.train import TrainingFailed
from partsong.common.config import SecureSumConfig, TrainingConfig
from partsong.common.errors import DataError, TryAgain, WireError
from partsong.common.files import read_lines


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
