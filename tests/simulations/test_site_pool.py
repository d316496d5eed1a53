"""Sites that are registered sleep on their disks until a message comes."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from partsong.common.errors import PartsongError, TryAgain
from partsong.server.daemon.canary import make_canary
from partsong.server.exchange import Parcel
from partsong.server.rounds import Loss
from partsong.simulations.dry_run import DryRun, DryTerms, expected_sum
from partsong.simulations.local_exchange import LocalExchange
from partsong.simulations.secure_sum import found

NAMES = ("a", "b", "c", "d", "e")
Dry = Callable[..., DryRun]


@pytest.fixture
def dry(tmp_path: Path) -> Dry:
    """A masked run of five sites."""

    def make(*, awake: int) -> DryRun:
        plan = make_canary(run="r", size=8, rounds=2, max_sites=5, minimum_cohort=3, seed=1)
        folder = Path(tempfile.mkdtemp(dir=tmp_path))
        return DryRun(DryTerms(plan=plan, names=NAMES, consortium=found(NAMES), awake=awake), folder)

    return make


def test_no_more_sites_are_in_memory_than_were_allowed(dry: Dry) -> None:
    """Five registered, five allowed: all sums are whole, and closing lets go of all."""
    run = dry(awake=5)
    result = run.run()

    assert run.sites.awake == 5
    assert [len(entry["sites"]) for entry in result.history] == [5, 5]
    moved = sum(expected_sum(result.plan, number=n, sites=NAMES) for n in (1, 2)) / 5
    assert abs(result.trained_P - moved).max() < 1e-3
    run.close()
    assert run.sites.awake == 0


class Stub:
    """A site that fails."""

    def __init__(self, error: PartsongError) -> None:
        self.error = error

    def handle(self, header: bytes, *, vector: bytes = b"", note: bytes = b"") -> None:
        raise self.error


def test_an_error_on_purpose_is_a_failure_and_is_told_at_the_site() -> None:
    """The coordinator learns that it failed."""
    told: list[str] = []
    exchange = LocalExchange(
        ("a",), lambda _: Stub(PartsongError("words")), on_error=lambda s, e: told.append(f"{s}: {e}")
    )

    assert list(exchange.ask({0: Parcel(header=b"x")}, phase="open", timeout_s=1)) == [(0, Loss.FAILED)]
    assert told == ["a: words"]


@pytest.mark.parametrize("error", [TryAgain("full"), ZeroDivisionError()])
def test_a_shortage_and_a_bug_come_out(error: Exception) -> None:
    """Neither is a drop-out."""
    exchange = LocalExchange(("a",), lambda _: Stub(error))
    with pytest.raises(type(error)):
        list(exchange.ask({0: Parcel(header=b"x")}, phase="open", timeout_s=1))
