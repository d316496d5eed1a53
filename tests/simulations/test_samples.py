"""Rounds over some of many sites, and rounds that end as the secure sum would without being one."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from partsong.common.config import SimulationConfig
from partsong.common.errors import ConfigError, RoundAborted
from partsong.common.thresholds import Floors
from partsong.server.cohort import cohort_of
from partsong.server.daemon.canary import make_canary
from partsong.server.run import Result
from partsong.simulations.consortium import sum_floors
from partsong.simulations.dry_run import DryRun, DryTerms, expected_sum
from partsong.simulations.faults.script import Fault, Script, draw

NAMES = tuple(f"s{i:02}" for i in range(40))
Configure = Callable[..., SimulationConfig]


def dry(folder: Path, *, sample: int | None, awake: int = 100, faults: tuple[Fault, ...] = (), floors=None) -> DryRun:
    """An unmasked run of two rounds over forty sites."""
    plan = make_canary(run="r", size=8, rounds=2, max_sites=40, minimum_cohort=3, seed=1)
    plan = replace(plan, masked=False, spot_checks=False)
    script = draw(Script(faults=faults), sites=NAMES, rounds=2)
    terms = DryTerms(plan=plan, names=NAMES, consortium=None, script=script, sample=sample, awake=awake, floors=floors)
    return DryRun(terms, folder)


def test_a_round_asks_the_sites_that_were_drawn_and_wakes_no_other(tmp_path: Path) -> None:
    """Also with no more sites in memory than a cohort has: one that was put to sleep comes back from its disk."""
    run = dry(tmp_path, sample=6, awake=6)
    result = run.run()
    run.close()

    cohorts = [cohort_of(NAMES, plan_sha256=result.plan.sha256, number=n, size=6) for n in (1, 2)]
    assert [tuple(entry["sites"]) for entry in result.history] == cohorts
    assert {f.name for f in (tmp_path / "sites").iterdir()} == set(cohorts[0]) | set(cohorts[1])
    moved = sum(expected_sum(result.plan, number=n, sites=c) for n, c in zip((1, 2), cohorts, strict=True)) / 6
    assert abs(result.trained_P - moved).max() < 1e-3


def test_without_a_sample_everybody_is_asked(tmp_path: Path) -> None:
    """The control."""
    run = dry(tmp_path, sample=None)
    history = run.run().history
    run.close()
    assert [len(entry["sites"]) for entry in history] == [40, 40]


@pytest.mark.parametrize("strict", [True, False])
def test_the_floors_of_the_secure_sum_end_a_round_without_it(tmp_path: Path, *, strict: bool) -> None:
    """Twenty of forty sites report: enough for the plan, too few to open a masked sum."""
    gone = Fault(kind="drop", sites=NAMES[:20], phases=("roster",))
    floors = Floors(minimum_cohort=3, minimum_honest=3, corrupt_tolerance=13)
    run = dry(tmp_path, sample=None, faults=(gone,), floors=floors if strict else None)

    if strict:
        with pytest.raises(RoundAborted, match="no round ended with a sum"):
            run.run()
    else:
        assert [len(entry["sites"]) for entry in run.run().history] == [20, 20]
    run.close()


def test_sum_only_gives_the_adapter_of_an_unmasked_run_and_the_floors_of_a_masked_one(
    play: Callable[..., Result],
) -> None:
    """The same words, added up the same way; three of five sites are no sum, as under masks."""
    one_gone, two_gone = ("sites=5", "rounds=1", "drop=[site-2@1]"), ("sites=5", "rounds=1", "drop=[site-2@1,site-3@1]")

    without, off = play(*one_gone, "secure_sum=sum-only"), play(*one_gone, "secure_sum=off")
    assert without.trained_P.tobytes() == off.trained_P.tobytes()
    assert len(play(*two_gone, "secure_sum=off").history[0]["sites"]) == 3
    for mode in ("sum-only", "full"):
        with pytest.raises(RoundAborted):
            play(*two_gone, f"secure_sum={mode}")


def test_a_simulated_run_draws_its_cohorts(play: Callable[..., Result]) -> None:
    """Over Flower's messages too, and under masks where there is noise."""
    plain = play("sites=6", "rounds=2", "cohort.sample=4", "secure_sum=sum-only")
    masked = play(
        "sites=5", "rounds=2", "cohort.sample=4", "privacy=dp", "privacy.delta=1e-3", "seed=null",
        "training.steps_per_round=1",
    )  # fmt: skip

    assert [len(entry["sites"]) for entry in (*plain.history, *masked.history)] == [4, 4, 4, 4]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("cohort.sample=4",), r"cohort\.sample: found 4 of 6 sites without privacy"),
        (("cohort.sample=3", "privacy=dp", "seed=null"), r"cohort\.sample: found 3, expected at least 4"),
        (("cohort.sample=2",), "sample of at least minimum=3, not 2"),
    ],
)
def test_a_sample_that_no_sum_can_come_of_is_refused(
    configured: Configure, overrides: tuple[str, ...], words: str
) -> None:
    """Before anything is written."""
    with pytest.raises(ConfigError, match=words):
        sum_floors(configured(*overrides), sites=6)
