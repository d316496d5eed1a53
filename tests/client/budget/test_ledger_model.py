"""The ledger against a plain model of it, by several hands at once."""

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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


SPENDER = """
import sys
from pathlib import Path
from partsong.client.budget.ledger import Claim, Ledger
from partsong.common.privacy.accounting import StepEvents
from partsong.common.errors import Refused

path, name = Path(sys.argv[1]), sys.argv[2]
ledger = Ledger(path)
events = (StepEvents(sampling_rate=0.05, noise_multiplier=0.7, steps=20),)
for count in range(1000):
    same = {"holding": "ward", "purpose": "train", "run": "r", "coordinator": "c", "fingerprint": "f"}
    try:
        ledger.reserve(Claim(context=f"{name}-{count}", events=events, **same))
    except Refused:
        break
    ledger.commit(f"{name}-{count}")
print(count)
"""


def test_two_processes_together_never_exceed_the_ceiling(path: Path) -> None:
    """Both spend as fast as they can; the total is what one alone could have spent."""
    ledger = Ledger(path)
    ledger.set_ceiling("ward", epsilon=8.0, delta=DELTA)
    command = [sys.executable, "-P", "-c", SPENDER, str(path)]

    running = [subprocess.Popen([*command, name], stdout=subprocess.PIPE, text=True) for name in "ab"]
    total = sum(int(process.communicate(timeout=120)[0]) for process in running)

    assert ledger.spent("ward").epsilon <= 8.0
    assert ledger.spent("ward") == epsilon(steps(20 * total, noise=0.7), delta=DELTA)
    assert epsilon(steps(20 * total + 20, noise=0.7), delta=DELTA).epsilon > 8.0


def test_threads_share_one_ledger(path: Path) -> None:
    """Two spend while two look: nobody sees half an entry, and all claims are there."""
    ledger = Ledger(path)
    ledger.set_ceiling("ward", epsilon=100.0, delta=DELTA)
    failures: list[BaseException] = []

    def spend(name: str) -> None:
        for index in range(8):
            ledger.reserve(claim(f"{name}{index}", events=steps(1, noise=0.4)))
            ledger.commit(f"{name}{index}")

    def look() -> None:
        for _ in range(60):
            ledger.outstanding()
            ledger.require(ledger.head)
            len(ledger.holding("ward").claims)

    def guarded(work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as err:  # noqa: BLE001 - shown by the assertion below
            failures.append(err)

    works = [lambda: spend("a"), lambda: spend("b"), look, look]
    threads = [threading.Thread(target=guarded, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failures == []
    assert len(ledger.holding("ward").claims) == 16


@settings(deadline=None, max_examples=15)
@given(moves=st.lists(st.tuples(st.sampled_from(["reserve", "commit", "release", "restart"]), st.integers(0, 4))))
def test_books_agree_with_a_plain_model_of_them(tmp_path_factory: pytest.TempPathFactory, moves: list) -> None:
    """Any order of calls, right or wrong: states and spends are those of a dictionary that follows the rules."""
    path = tmp_path_factory.mktemp("books") / "ledger.db"
    ledger, model = Ledger(path), {}
    ledger.set_ceiling("ward", epsilon=50.0, delta=DELTA)

    for move, index in moves:
        context, allowed = f"r{index}", True
        if move == "restart":
            ledger.close()
            ledger = Ledger(path)
            continue
        if move == "reserve":
            allowed = context not in model
            model.setdefault(context, "reserved")
        else:
            allowed = model.get(context) == "reserved"
            if allowed:
                model[context] = "committed" if move == "commit" else "released"
        try:
            getattr(ledger, move)(claim(context) if move == "reserve" else context)
        except Refused:
            assert not allowed
        else:
            assert allowed

    assert {c: ledger.state(c) for c in model} == model
    count = sum(state != "released" for state in model.values())
    assert ledger.spent("ward").epsilon == (epsilon(steps(4 * count), delta=DELTA).epsilon if count else 0.0)
