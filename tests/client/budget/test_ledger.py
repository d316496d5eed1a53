"""A holding's budget is kept over queries, runs, versions of the data, processes and mistakes."""

import shutil
from pathlib import Path

import pytest

from partsong.client.budget.books import spend, spend_against
from partsong.client.budget.chain import Head
from partsong.client.budget.ledger import Claim, Ledger
from partsong.common.errors import Refused
from partsong.common.privacy.accounting import StepEvents, epsilon

DELTA = 1e-5


def steps(count: int = 4, *, noise: float = 1.0) -> tuple[StepEvents, ...]:
    return (StepEvents(sampling_rate=0.05, noise_multiplier=noise, steps=count),)


def claim(context: str, **changes: object) -> Claim:
    given = {
        "holding": "ward",
        "context": context,
        "purpose": "train",
        "run": "run-1",
        "coordinator": "c0",
        "fingerprint": "f0",
        "events": steps(),
    }
    return Claim(**given | changes)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


@pytest.fixture
def ledger(path: Path) -> Ledger:
    ledger = Ledger(path)
    ledger.set_ceiling("ward", epsilon=4.0, delta=DELTA)
    return ledger


def test_what_is_spent_is_the_composition_and_not_a_sum(ledger: Ledger) -> None:
    """Four claims cost what their steps cost together, less than four times one."""
    for index in range(4):
        bound = ledger.reserve(claim(f"r{index}"))
        ledger.commit(f"r{index}")

    alone = epsilon(steps(), delta=DELTA).epsilon
    assert ledger.spent("ward") == epsilon(steps(16), delta=DELTA)
    assert bound.epsilon == pytest.approx(ledger.spent("ward").epsilon, rel=1e-4)
    assert bound.epsilon < 0.9 * 4 * alone


def test_the_query_that_would_exceed_the_ceiling_is_refused_and_leaves_no_trace(ledger: Ledger) -> None:
    """The last affordable claim passes, the next does not, and a cheaper one still may."""
    head = ledger.head
    with pytest.raises(Refused, match="over_budget"):
        ledger.reserve(claim("dear", events=steps(400)))
    assert ledger.head == head

    ledger.reserve(claim("cheap", events=steps(1)))

    assert ledger.state("dear") is None
    assert ledger.spent("ward").epsilon <= 4.0


def test_another_run_coordinator_purpose_or_fingerprint_inherits_what_was_spent(ledger: Ledger) -> None:
    """The budget belongs to the holding's name."""
    ledger.reserve(claim("r0", events=steps(100)))

    other = {"run": "run-2", "coordinator": "c1", "purpose": "evaluate", "fingerprint": "f1"}
    ledger.reserve(claim("r1", events=steps(1), **other))

    assert ledger.spent("ward") == epsilon(steps(101), delta=DELTA)
    assert ledger.holding("ward").fingerprint == "f1"


def test_two_holdings_do_not_share_a_budget(ledger: Ledger) -> None:
    """Each has a ceiling and a delta of its own."""
    ledger.set_ceiling("clinic", epsilon=1.0, delta=1e-6)
    ledger.reserve(claim("r0", events=steps(100)))

    assert ledger.spent("clinic").epsilon == 0.0
    assert ledger.holdings() == ("ward", "clinic")


def test_an_unnamed_holding_has_no_budget(ledger: Ledger) -> None:
    """Closed by default."""
    with pytest.raises(Refused, match="unknown_holding"):
        ledger.reserve(claim("r0", holding="attic"))
    with pytest.raises(Refused, match="unknown_holding"):
        ledger.spent("attic")


def test_a_reservation_counts_until_it_is_released(ledger: Ledger) -> None:
    """In doubt it is spent; released, it is not."""
    ledger.reserve(claim("r0"))
    reserved = ledger.spent("ward").epsilon

    ledger.release("r0")

    assert reserved > 0
    assert ledger.spent("ward").epsilon == 0.0
    assert ledger.state("r0") == "released"


def test_what_was_committed_is_never_given_back(ledger: Ledger) -> None:
    """A sealed vector may be anywhere."""
    ledger.reserve(claim("r0"))
    ledger.commit("r0")

    with pytest.raises(Refused, match="not_reserved"):
        ledger.release("r0")

    assert ledger.spent("ward").epsilon > 0


def test_what_was_released_is_never_sealed(ledger: Ledger) -> None:
    """Without a commit nothing may be sealed, and a released context gets none."""
    ledger.reserve(claim("r0"))
    ledger.release("r0")

    with pytest.raises(Refused, match="not_reserved"):
        ledger.commit("r0")


def test_a_context_is_paid_for_once_ever(ledger: Ledger) -> None:
    """Neither committed, released nor reserved contexts can be reserved again; unknown ones cannot be committed."""
    for context, finish in (("a", ledger.commit), ("b", ledger.release), ("c", lambda _context: None)):
        ledger.reserve(claim(context))
        finish(context)
        with pytest.raises(Refused, match="context_used"):
            ledger.reserve(claim(context))

    with pytest.raises(Refused, match="not_reserved"):
        ledger.commit("never")
    ledger.commit("c")
    with pytest.raises(Refused, match="not_reserved"):
        ledger.commit("c")


def test_rounds_that_form_no_roster_spend_nothing(path: Path) -> None:
    """A hundred claims reserved and released under a ceiling that holds one; after a commit there is no second."""
    ledger = Ledger(path)
    one = epsilon(steps(), delta=DELTA).epsilon
    ledger.set_ceiling("ward", epsilon=1.01 * one, delta=DELTA)

    for index in range(100):
        ledger.reserve(claim(f"r{index}"))
        ledger.release(f"r{index}")

    assert ledger.spent("ward").epsilon == 0.0
    ledger.reserve(claim("real"))
    ledger.commit("real")
    with pytest.raises(Refused, match="over_budget"):
        ledger.reserve(claim("more"))


def test_a_restart_remembers_everything(ledger: Ledger, path: Path) -> None:
    """Another process sees the same spends, states and heads."""
    ledger.reserve(claim("r0"))
    ledger.commit("r0")
    ledger.reserve(claim("r1"))
    spent, head = ledger.spent("ward"), ledger.head
    ledger.close()

    again = Ledger(path)

    assert (again.spent("ward"), again.head) == (spent, head)
    assert again.outstanding() == ("r1",)
    assert again.state("r0") == "committed"


def test_two_ledgers_on_one_file_see_each_other(ledger: Ledger, path: Path) -> None:
    """What one reserves, the other counts; what one commits, the other cannot release."""
    other = Ledger(path)
    ledger.reserve(claim("r0", events=steps(100)))

    assert other.spent("ward") == epsilon(steps(100), delta=DELTA)
    other.commit("r0")
    with pytest.raises(Refused, match="not_reserved"):
        ledger.release("r0")


def test_a_restored_backup_is_found_by_the_head_that_peers_remember(ledger: Ledger, path: Path) -> None:
    """The old copy is valid in itself; the anchor tells that it is old."""
    ledger.reserve(claim("r0"))
    ledger.close()
    backup = path.with_suffix(".bak")
    shutil.copy(path, backup)
    ledger = Ledger(path)
    seen = ledger.commit("r0")
    ledger.close()
    backup.replace(path)

    old = Ledger(path)

    assert old.state("r0") == "reserved"
    with pytest.raises(Refused, match="ledger_rolled_back"):
        old.require(seen)
    with pytest.raises(Refused, match="ledger_rolled_back"):
        old.anchor(seen, witnesses=["b", "c"])


def test_an_anchor_is_recorded_and_without_one_there_is_none(ledger: Ledger) -> None:
    """Who verifies learns up to where others vouch."""
    head = ledger.head
    assert ledger.anchored is None

    ledger.anchor(head, witnesses=["site-b", "site-c"])

    assert ledger.anchored == head
    ledger.require(head, ledger.head)
    with pytest.raises(Refused, match="ledger_rolled_back"):
        ledger.require(Head(number=head.number, digest="00" * 32))


def test_the_delta_of_a_holding_is_fixed_the_ceiling_is_not(ledger: Ledger) -> None:
    """Epsilons are only comparable at one delta; raising the ceiling is an entry like any other."""
    with pytest.raises(Refused, match="over_budget"):
        ledger.reserve(claim("r0", events=steps(400)))
    with pytest.raises(Refused, match="delta_changed"):
        ledger.set_ceiling("ward", epsilon=9.0, delta=2 * DELTA)

    ledger.set_ceiling("ward", epsilon=9.0, delta=DELTA)

    assert ledger.reserve(claim("r0", events=steps(400))).epsilon > 4.0
    ledger.set_ceiling("ward", epsilon=1.0, delta=DELTA)
    with pytest.raises(Refused, match="over_budget"):
        ledger.reserve(claim("r1", events=steps(1)))


def test_a_query_without_privacy_passes_only_where_there_is_no_ceiling_and_stays_on_the_books(ledger: Ledger) -> None:
    """It makes epsilon infinite for good, which every later ceiling sees."""
    bare = claim("bare", events=(), protected=False)
    with pytest.raises(Refused, match="over_budget"):
        ledger.reserve(bare)

    ledger.set_ceiling("ward", epsilon=None, delta=DELTA)
    ledger.reserve(bare)

    assert ledger.spent("ward").epsilon == float("inf")
    ledger.set_ceiling("ward", epsilon=100.0, delta=DELTA)
    with pytest.raises(Refused, match="over_budget"):
        ledger.reserve(claim("r1"))


@pytest.mark.parametrize("wrong", [{"events": ()}, {"protected": False}])
def test_a_claim_says_either_what_it_releases_or_that_it_is_unprotected(wrong: dict) -> None:
    """No events must not look like no cost."""
    with pytest.raises(ValueError, match="not both"):
        claim("r0", **wrong)


@pytest.mark.parametrize(("budget", "delta"), [(0.0, DELTA), (float("inf"), DELTA), (1.0, 0.0), (1.0, 1.0)])
def test_a_ceiling_without_meaning_is_refused(ledger: Ledger, budget: float, delta: float) -> None:
    """Infinity is spelt None, so that nobody types it by accident."""
    with pytest.raises(ValueError, match="epsilon above 0"):
        ledger.set_ceiling("ward", epsilon=budget, delta=delta)


def test_a_sequence_that_cannot_have_happened_is_damage(ledger: Ledger, path: Path) -> None:
    """A chain may be whole and its story impossible: a commit without a reservation."""
    with ledger._chain.writing() as append:
        append("committed", {"context": "never"})

    for _ in range(2):  # it does not pass the second time either
        with pytest.raises(Refused, match="ledger_damaged"):
            ledger.spent("ward")
    with pytest.raises(Refused, match="ledger_damaged"):
        Ledger(path)


@pytest.mark.parametrize("most", [None, 10.0, "exact", "below"])
def test_a_comparison_is_as_precise_as_it_has_to_be(most: float | str | None) -> None:
    """Far from the ceiling a bound from above decides; at the ceiling the exact value does."""
    claims = [claim("a"), claim("b")]
    exact = spend(claims, delta=1e-5).epsilon
    ceiling = {"exact": exact, "below": exact * 0.999}.get(most, most) if isinstance(most, str) else most

    found = spend_against(claims, delta=1e-5, most=ceiling).epsilon

    assert exact <= found <= exact * 1.001
    assert (ceiling is None or found <= ceiling) is (most != "below")
    assert (found == exact) is isinstance(most, str)


def test_an_entry_is_found_by_the_digest_that_somebody_remembers(ledger: Ledger) -> None:
    """Any entry, not the newest only; one that was never there means that an older copy was put back."""
    ledger.reserve(claim("a"))
    head = ledger.head
    ledger.commit("a")

    assert ledger.find(bytes.fromhex(head.digest)) == head
    with pytest.raises(Refused, match="ledger_rolled_back"):
        ledger.find(bytes(32))
