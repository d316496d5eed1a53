"""Whole federations over groups under random faults: exact sums of one group, and medians of all groups or no step."""

import itertools
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fault_scripts import faults
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from partsong.client.budget.ledger import Ledger
from partsong.common.errors import RoundAborted
from partsong.common.groups import Groups
from partsong.common.thresholds import Floors
from partsong.server.coordinator import RunNotStarted
from partsong.server.daemon.canary import make_canary
from partsong.simulations.dry_run import DryRun, DryTerms, expected_sum
from partsong.simulations.faults.clock import VirtualClock
from partsong.simulations.faults.script import Fault, Script, draw
from partsong.simulations.secure_sum import found

SITES, ROUNDS, SIZE = tuple("abcdefghijkl"), 6, 8
GROUPS = Groups(sites=(SITES[:4], SITES[4:8], SITES[8:]))
"""Four sites each, of which three are enough for a sum."""
FLOORS = Floors(minimum_cohort=3, minimum_honest=3, corrupt_tolerance=0)
MEMORY = Path("/dev/shm")
Play = Callable[..., "Played"]


class Played:
    """A run that is over, and what it left on disk."""

    def __init__(self, script: Script, folder: Path) -> None:
        plan = make_canary(run="r", size=SIZE, rounds=ROUNDS, max_sites=len(SITES), minimum_cohort=3, seed=1)
        self.plan, self.folder = replace(plan, groups=GROUPS), folder
        self.dry = DryRun(
            DryTerms(plan=self.plan, names=SITES, consortium=found(SITES, floors=FLOORS), script=script),
            folder,
            clock=VirtualClock(base=lambda: 1_000_000.0),
        )
        try:
            self.result = self.dry.run()
            self.ended = "finished"
        except (RunNotStarted, RoundAborted) as err:
            self.ended = str(err)
        finally:
            self.dry.close()

    @property
    def sums(self) -> dict[int, tuple[str, ...]]:
        """Sites of each sum by its round."""
        file = self.folder / "metrics.jsonl"
        lines = file.read_text().splitlines() if file.exists() else []
        entries = [json.loads(line) for line in lines]
        return {entry["round"]: tuple(entry["sites"]) for entry in entries if entry["sites"]}

    def paid(self, site: str) -> set[int]:
        """Rounds that a site has paid for."""
        file = self.dry.ledger_of(site)
        if not file.exists():
            return set()
        ledger = Ledger(file)
        contexts = [json.loads(entry.body)["context"] for entry in ledger.entries() if entry.kind == "reserved"]
        found_paid = {int(context.split(":")[1]) for context in contexts if ledger.state(context) == "committed"}
        ledger.close()
        return found_paid


def check(played: Played) -> None:
    """Each sum is of one group, paid for by its sites and by nobody outside; the adapter is the sum of the medians."""
    sums, expected = played.sums, np.zeros(SIZE)
    for number, sites in sums.items():
        assert len(sites) >= 3
        assert set(sites) <= set(GROUPS.asked(number))
        assert all(number in played.paid(site) for site in sites)
    for site in SITES:
        assert all(site in GROUPS.asked(number) for number in played.paid(site))
    for step in ((1, 2, 3), (4, 5, 6)):
        if all(number in sums for number in step):
            means = [expected_sum(played.plan, number=n, sites=sums[n]) / len(sums[n]) for n in step]
            expected += np.median(means, axis=0)
        last = played.folder / "checkpoint" / f"round-{max(step):04d}.safetensors"
        if last.exists():
            np.testing.assert_allclose(load_file(last)["adapter"], expected, atol=1e-3)
    if played.ended == "finished":
        np.testing.assert_allclose(played.result.trained_P, expected, atol=1e-3)
        assert expected.any()


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Iterator[Play]:
    """Carry a script out on disks in memory."""
    monkeypatch.setattr(os, "fsync", lambda _: None)
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder:
        count = itertools.count()

        def run(*faults: Fault) -> Played:
            script = draw(Script(faults=faults), sites=SITES, rounds=ROUNDS)
            own = Path(folder) / str(next(count))
            own.mkdir()
            return Played(script, own)

        yield run


_QUICK = settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
SCRIPTS = st.lists(faults(sites=SITES, rounds=ROUNDS), min_size=1, max_size=6)


@given(script=SCRIPTS)
@_QUICK
def test_groups_under_faults_sum_exactly_or_not_at_all(play: Play, script: list[Fault]) -> None:
    """Whatever is lost, late, doubled, killed, corrupted or lied about."""
    check(play(*script))


@pytest.mark.nightly
@pytest.mark.parametrize("part", range(2))
@given(script=SCRIPTS)
@settings(_QUICK, max_examples=500)
def test_a_thousand_scripts(play: Play, part: int, script: list[Fault]) -> None:
    """The same, more often."""
    check(play(*script))


def test_without_faults_every_group_is_whole(play: Play) -> None:
    """The rounds that the faults are held against; and the check tells an adapter that is not the medians'."""
    played = play()

    check(played)
    assert played.ended == "finished"
    assert list(played.sums.values()) == [*GROUPS.sites, *GROUPS.sites]
    played.result.trained_P[0] += 1.0
    with pytest.raises(AssertionError):
        check(played)
