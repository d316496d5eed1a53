"""A lifetime is rationed by purpose and quarter; queries that lead to nothing cost nothing and are counted."""

import dataclasses
import json
import os
import sqlite3
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partsong.client.budget.books import Grant, quarter
from partsong.client.budget.ledger import Claim, Ledger
from partsong.client.budget.ledger_export import summaries, to_tree, verify
from partsong.common.build import to_tree as plain
from partsong.common.errors import Refused
from partsong.common.privacy.accounting import StepEvents, epsilon
from partsong.common.privacy.selection import Selection, epsilon_with_selections

DELTA = 1e-5
EVENT = StepEvents(sampling_rate=0.05, noise_multiplier=0.45, steps=2)  # on the coarse grid: quick
ONE, TWO, THREE = (epsilon([EVENT] * count, delta=DELTA).epsilon for count in (1, 2, 3))


class Calendar:
    """A clock that a test sets by date."""

    def __init__(self) -> None:
        self.set("2026-11-22")

    def set(self, text: str) -> None:
        self.now = datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Calendar:
    return Calendar()


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """In memory where the system has such a folder: thousands of waits for a disk are not what is tested here."""
    memory = Path("/dev/shm")
    if not (memory.is_dir() and os.access(memory, os.W_OK)):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory) as name:
        yield Path(name)


@pytest.fixture
def ledger(folder: Path, clock: Calendar) -> Ledger:
    return Ledger(folder / "ledger.db", clock=clock)


def claim(context: str, **changes: object) -> Claim:
    given = {
        "holding": "ward",
        "context": context,
        "purpose": "train",
        "run": "run-1",
        "coordinator": "c0",
        "fingerprint": "f0",
        "events": (EVENT,),
    }
    return Claim(**given | changes)


def spend(ledger: Ledger, context: str, **changes: object) -> str:
    """Reserve and commit; the rule that refuses it, or nothing."""
    try:
        ledger.reserve(claim(context, **changes))
    except Refused as no:
        return no.rule
    ledger.commit(context)
    return ""


def test_a_purpose_takes_its_ration_and_no_more(ledger: Ledger) -> None:
    """Training stops at its share; evaluation still has the rest of the lifetime, and then that stops too."""
    ledger.set_ceiling("ward", epsilon=THREE, delta=DELTA, purposes={"train": TWO})

    assert [spend(ledger, f"t{i}") for i in range(3)] == ["", "", "over_ration"]
    assert spend(ledger, "e0", purpose="evaluate") == ""
    assert spend(ledger, "e1", purpose="evaluate") == "over_budget"


def test_a_quarter_takes_its_ration_and_the_next_one_its_own(ledger: Ledger, clock: Calendar) -> None:
    """On the last day of a quarter nothing is left, on the first of the next there is, until the lifetime is spent."""
    ledger.set_ceiling("ward", epsilon=THREE, delta=DELTA, per_quarter=TWO)
    assert [spend(ledger, f"a{i}") for i in range(3)] == ["", "", "over_ration"]

    clock.set("2026-12-31T23:59:59")
    assert spend(ledger, "b") == "over_ration"
    clock.set("2027-01-01")
    assert [spend(ledger, f"c{i}") for i in range(2)] == ["", "over_budget"]


def test_a_clock_set_back_brings_no_ration_back(ledger: Ledger, clock: Calendar) -> None:
    """Neither by a year nor by a second past the border of the quarter: the ledger's time stands still."""
    clock.set("2027-01-01")
    ledger.set_ceiling("ward", epsilon=100.0, delta=DELTA, per_quarter=ONE, unfinished_per_day=1)
    assert spend(ledger, "a") == ""

    for back in ("2026-12-31T23:59:59", "2026-02-01", "1970-01-02"):
        clock.set(back)
        assert spend(ledger, f"b {back}") == "over_ration"
        assert ledger.now_ms == datetime(2027, 1, 1, tzinfo=UTC).timestamp() * 1000

    clock.set("2027-04-01")
    assert spend(ledger, "c") == ""  # control: time that really passes does


def test_each_ration_is_a_composition_and_not_a_sum(ledger: Ledger) -> None:
    """A ration of twice one query's epsilon holds more than two queries."""
    ledger.set_ceiling("ward", epsilon=100.0, delta=DELTA, purposes={"train": 2 * ONE}, per_quarter=2 * ONE)
    assert 2 * ONE > THREE

    assert [spend(ledger, f"t{i}") for i in range(3)] == ["", "", ""]


def test_what_is_released_goes_back_to_every_ration(ledger: Ledger) -> None:
    """Reserved it counts in the lifetime, the purpose and the quarter; released in none."""
    ledger.set_ceiling("ward", epsilon=ONE, delta=DELTA, purposes={"train": ONE}, per_quarter=ONE)
    ledger.reserve(claim("a"))
    assert spend(ledger, "b") == "over_budget"

    ledger.release("a")

    assert spend(ledger, "c") == ""


def test_unfinished_queries_of_a_day_are_counted_and_the_next_day_counts_anew(ledger: Ledger, clock: Calendar) -> None:
    """Released and outstanding ones count, committed ones do not."""
    ledger.set_ceiling("ward", epsilon=100.0, delta=DELTA, unfinished_per_day=2)
    ledger.reserve(claim("released"))
    ledger.release("released")
    assert spend(ledger, "good") == ""
    ledger.reserve(claim("outstanding"))

    assert spend(ledger, "more") == "too_many_unfinished"
    assert ledger.holding("ward").unfinished == {20779: 2}

    ledger.commit("outstanding")
    assert spend(ledger, "more") == ""
    ledger.reserve(claim("second"))
    assert spend(ledger, "again") == "too_many_unfinished"
    clock.set("2026-11-23")
    assert spend(ledger, "again") == ""


@pytest.mark.nightly
def test_a_thousand_rounds_opened_and_never_completed_spend_nothing(ledger: Ledger) -> None:
    """Under a ceiling that holds one query all thousand pass, and the one that completes is still affordable."""
    ledger.set_ceiling("ward", epsilon=ONE, delta=DELTA, purposes={"train": ONE}, per_quarter=ONE)

    for index in range(1000):
        ledger.reserve(claim(f"r{index}"))
        ledger.release(f"r{index}")

    assert ledger.spent("ward").epsilon == 0.0
    assert ledger.outstanding() == ()
    assert len(ledger.entries()) == 2002
    assert spend(ledger, "real") == ""
    assert spend(ledger, "more") == "over_budget"  # control: what completes does cost


def test_a_thousand_rounds_are_stopped_at_the_cap(ledger: Ledger) -> None:
    """With the cap of a policy the eleventh of a day is refused before a record is read."""
    ledger.set_ceiling("ward", epsilon=100.0, delta=DELTA, unfinished_per_day=10)

    for index in range(10):
        ledger.reserve(claim(f"r{index}"))
        ledger.release(f"r{index}")

    for index in range(10, 1000):
        with pytest.raises(Refused, match="too_many_unfinished"):
            ledger.reserve(claim(f"r{index}"))
    assert len(ledger.entries()) == 22


def test_a_restart_remembers_rations_and_counts(ledger: Ledger, folder: Path, clock: Calendar) -> None:
    """Grants, times of claims and unfinished queries are replayed from the entries."""
    ledger.set_ceiling("ward", epsilon=9.0, delta=DELTA, purposes={"train": TWO}, per_quarter=TWO, unfinished_per_day=3)
    spend(ledger, "a")
    ledger.reserve(claim("b"))
    before = ledger.holding("ward")
    ledger.close()

    again = Ledger(folder / "ledger.db", clock=clock)

    assert again.holding("ward") == before
    again.release("b")
    assert again.holding("ward").unfinished != {}


def test_a_delta_that_allows_a_whole_record_is_refused(ledger: Ledger) -> None:
    """1 / N is known at the site alone; also the records of a choice's candidates count."""
    ledger.set_ceiling("ward", epsilon=100.0, delta=1e-3)

    def at(records: int) -> Claim:
        return claim(f"r{records}", events=(dataclasses.replace(EVENT, max_batch=records, records=records),))

    with pytest.raises(Refused, match="delta_too_large"):
        ledger.quote(at(1000))
    choice = Selection(candidate=at(1000).events, mean_runs=2.0)
    with pytest.raises(Refused, match="delta_too_large"):
        ledger.quote(claim("s", events=(), selections=(choice,)))

    assert ledger.quote(at(999)).epsilon > 0


def test_a_quote_says_what_a_reservation_would_and_records_nothing(ledger: Ledger) -> None:
    """The same spend, the same refusals, the same head as before."""
    ledger.set_ceiling("ward", epsilon=TWO, delta=DELTA)
    head = ledger.head

    assert ledger.quote(claim("a")).epsilon == ONE
    with pytest.raises(Refused, match="over_budget"):
        ledger.quote(claim("a", events=(EVENT,) * 3))
    assert ledger.head == head
    assert ledger.reserve(claim("a")).epsilon == ONE


def test_a_choice_made_here_is_charged_and_survives_a_restart(ledger: Ledger, folder: Path) -> None:
    """A learning-rate sweep whose losers never leave: more than one candidate, in one claim."""
    score = StepEvents(sampling_rate=1.0, noise_multiplier=8.0, steps=1)
    choice = Selection(candidate=(score,), mean_runs=4.0)
    ledger.set_ceiling("ward", epsilon=100.0, delta=DELTA)

    charged = ledger.reserve(claim("s", events=(), selections=(choice,)))

    assert charged == epsilon_with_selections([], [choice], delta=DELTA)
    assert charged.epsilon > epsilon([score], delta=DELTA).epsilon
    ledger.close()
    assert Ledger(folder / "ledger.db").spent("ward") == charged


def test_the_grants_of_a_policy_are_adopted_once_and_what_is_gone_is_closed(ledger: Ledger) -> None:
    """Only what changed is written; a holding that the policy no longer names spends nothing more."""
    ward, lab = Grant(epsilon=4.0, delta=DELTA, per_quarter=1.0), Grant(epsilon=1.0, delta=1e-6)

    assert ledger.adopt({"ward": ward, "lab": lab}) == ("ward", "lab")
    assert ledger.adopt({"ward": ward, "lab": lab}) == ()
    assert ledger.adopt({"lab": lab}) == ("ward",)

    assert spend(ledger, "a") == "over_budget"
    assert ledger.adopt({"ward": ward, "lab": lab}) == ("ward",)
    assert ledger.holding("ward").grant == ward
    assert len(ledger.entries()) == 5


def test_adopting_is_all_or_nothing(ledger: Ledger) -> None:
    """A second delta for one holding leaves the others as they were too."""
    ledger.adopt({"ward": Grant(epsilon=4.0, delta=DELTA)})

    with pytest.raises(Refused, match="delta_changed"):
        ledger.adopt({"lab": Grant(epsilon=1.0, delta=DELTA), "ward": Grant(epsilon=5.0, delta=1e-6)})

    assert ledger.holdings() == ("ward",)
    assert ledger.holding("ward").ceiling == 4.0


@pytest.mark.parametrize("first", ["ward", "ward/2024"])
def test_a_holding_is_a_whole_or_blocks_and_never_both(ledger: Ledger, first: str) -> None:
    """The attack: spend the whole, then cut it into blocks with fresh budgets, or the other way round."""
    second = {"ward": "ward/2024", "ward/2024": "ward"}[first]
    ledger.set_ceiling(first, epsilon=1.0, delta=DELTA)

    with pytest.raises(Refused, match="blocks_mixed"):
        ledger.set_ceiling(second, epsilon=1.0, delta=DELTA)
    with pytest.raises(Refused, match="blocks_mixed"):
        ledger.adopt({second: Grant(epsilon=1.0, delta=DELTA)})

    ledger.set_ceiling("wards", epsilon=1.0, delta=DELTA)  # control: another name
    ledger.set_ceiling("other/2024", epsilon=1.0, delta=DELTA)
    ledger.set_ceiling("other/2025", epsilon=1.0, delta=DELTA)


def test_a_grant_edited_in_the_file_is_damage(ledger: Ledger, folder: Path) -> None:
    """A ration raised with a SQLite shell breaks the chain like any other edit."""
    ledger.set_ceiling("ward", epsilon=1.0, delta=DELTA, per_quarter=0.5)
    ledger.close()
    db = sqlite3.connect(folder / "ledger.db")
    db.executescript(
        "DROP TRIGGER entry_is_never_changed;"
        "UPDATE entry SET body = replace(body, '\"per_quarter\":0.5', '\"per_quarter\":9.5') WHERE kind = 'ceiling'"
    )
    db.close()

    with pytest.raises(Refused, match="ledger_damaged"):
        Ledger(folder / "ledger.db")


def test_a_ledger_from_before_rations_reads_as_one_without(ledger: Ledger) -> None:
    """Entries that name a lifetime only mean what they meant."""
    with ledger._chain.writing() as append:
        append("ceiling", {"holding": "ward", "epsilon": 2.0, "delta": DELTA})

    assert ledger.holding("ward").grant == Grant(epsilon=2.0, delta=DELTA)


def test_the_summary_says_what_each_ration_has_left(ledger: Ledger) -> None:
    """By purpose, for this quarter, and how many queries led to nothing today."""
    ledger.set_ceiling("ward", epsilon=9.5, delta=DELTA, purposes={"train": 8.0}, per_quarter=8.9, unfinished_per_day=5)
    spend(ledger, "a")
    ledger.reserve(claim("b", purpose="evaluate"))

    (summary,) = summaries(ledger)
    (tree,) = to_tree(ledger)["holdings"]

    assert [(r.name, r.spent.epsilon, r.most) for r in summary.rations] == [
        ("purpose evaluate", ONE, None),
        ("purpose train", ONE, 8.0),
        ("quarter 2026-Q4", TWO, 8.9),
    ]
    assert (summary.unfinished_today, summary.unfinished_per_day) == (1, 5)
    assert tree["rations"][1] == {"name": "purpose train", "epsilon": ONE, "most": 8.0}
    assert verify(ledger).entries == 5


@settings(max_examples=12, deadline=None)
@given(
    moves=st.lists(
        st.tuples(
            st.sampled_from(["train", "evaluate"]), st.sampled_from(["commit", "release", "leave"]), st.booleans()
        ),
        max_size=12,
    )
)
def test_no_order_of_queries_exceeds_any_ration(tmp_path_factory: pytest.TempPathFactory, moves: list) -> None:
    """Whatever is asked, finished or left, over whatever quarters: each composition stays below its ceiling."""
    clock = Calendar()
    ledger = Ledger(tmp_path_factory.mktemp("rations") / "ledger.db", clock=clock)
    ledger.set_ceiling("ward", epsilon=6.5 * ONE / 2, delta=DELTA, purposes={"train": TWO}, per_quarter=TWO)
    spent: list[tuple[str, str]] = []
    for number, (purpose, finish, later) in enumerate(moves):
        clock.now += 92 * 86_400 * later
        try:
            ledger.reserve(claim(f"r{number}", purpose=purpose))
        except Refused:
            continue
        if finish == "release":
            ledger.release(f"r{number}")
            continue
        if finish == "commit":
            ledger.commit(f"r{number}")
        spent.append((purpose, quarter(ledger.now_ms)))

    def cost(count: int) -> float:
        return epsilon([EVENT] * count, delta=DELTA).epsilon if count else 0.0

    assert cost(len(spent)) <= 6.5 * ONE / 2
    assert cost(sum(purpose == "train" for purpose, _ in spent)) <= TWO
    assert all(cost(sum(q == name for _, q in spent)) <= TWO for name in {q for _, q in spent})


def test_entries_name_every_ration(ledger: Ledger) -> None:
    """What an auditor reads in the export is the whole grant."""
    grant = Grant(epsilon=4.0, delta=DELTA, purposes={"train": 3.0}, per_quarter=2.0, unfinished_per_day=7)
    ledger.adopt({"ward": grant})

    assert json.loads(ledger.entries()[-1].body) == {"holding": "ward", **plain(grant)}
