"""Whole federations under random faults: every sum is exactly the survivors', and paid for, or there is none."""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from fault_scripts import faults
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from partsong.client.budget.ledger import Ledger
from partsong.common.errors import RoundAborted
from partsong.server.coordinator import RunNotStarted
from partsong.server.daemon.canary import make_canary
from partsong.simulations.dry_run import DryRun, DryTerms, expected_sum
from partsong.simulations.faults.clock import VirtualClock
from partsong.simulations.faults.script import IN_ROUND, Fault, Phase, Script, draw
from partsong.simulations.secure_sum import found

SITES, ROUNDS, SIZE = ("a", "b", "c", "d", "e"), 2, 8
MEMORY = Path("/dev/shm")


class Played:
    """A run that is over, and what it left on everyone's disk."""

    def __init__(self, script: Script, folder: Path) -> None:
        self.keys = found(SITES)
        self.plan = make_canary(run="r", size=SIZE, rounds=ROUNDS, max_sites=len(SITES), minimum_cohort=3, seed=1)
        self.folder, self.errors = folder, list[str]()
        self.dry = DryRun(
            DryTerms(plan=self.plan, names=SITES, consortium=self.keys, script=script),
            folder,
            clock=VirtualClock(base=lambda: 1_000_000.0),
            on_site_error=lambda site, err: self.errors.append(f"{site}: {err}"),
        )
        try:
            self.checked_by = found_by.checked_by if (found_by := self.dry.run().secure_sum) else ()
            self.ended = "finished"
        except (RunNotStarted, RoundAborted) as err:
            self.ended = str(err)
        finally:
            self.dry.close()

    @property
    def history(self) -> list[dict]:
        """One entry a round."""
        file = self.folder / "metrics.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def adapter(self, number: int) -> np.ndarray:
        """The global adapter after a round."""
        if number == 0:
            return np.zeros(SIZE)
        return load_file(self.folder / "checkpoint" / f"round-{number:04d}.safetensors")["adapter"]

    def paid(self, site: str) -> dict[str, str]:
        """What became of every query in a site's ledger, which is checked from its first entry."""
        file = self.dry.ledger_of(site)
        if not file.exists():
            return {}
        ledger = Ledger(file)
        contexts = [json.loads(e.body)["context"] for e in ledger.entries() if e.kind == "reserved"]
        states = {context: str(ledger.state(context)) for context in contexts}
        ledger.close()
        assert len(states) == len(contexts)
        return states


def check(played: Played) -> None:
    """Every sum is exactly that of its sites, all of which have paid; every other round changed nothing, and says why."""
    for entry in played.history:
        number, sites = entry["round"], tuple(entry["sites"])
        moved = (played.adapter(number) - played.adapter(number - 1)) * max(1, len(sites))
        if not sites:
            assert entry["reason"]
            assert not moved.any()
            continue
        assert len(sites) >= 4
        np.testing.assert_allclose(moved, expected_sum(played.plan, number=number, sites=sites), atol=1e-3)
        for site in sites:
            states = played.paid(site)
            assert any(c.startswith(f"{played.plan.sha256}:{number}:") and s == "committed" for c, s in states.items())
    if played.ended == "finished":
        assert [entry["round"] for entry in played.history] == list(range(1, ROUNDS + 1))
        assert any(entry["sites"] for entry in played.history)


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Played]]:
    """Carry a script out on disks in memory: what a power cut does is tested elsewhere."""
    monkeypatch.setattr(os, "fsync", lambda _: None)
    folders = []

    def run(*faults: Fault) -> Played:
        script = draw(Script(faults=faults), sites=SITES, rounds=ROUNDS)
        folders.append(tempfile.mkdtemp(dir=MEMORY if MEMORY.is_dir() else None))
        return Played(script, Path(folders[-1]))

    yield run
    for folder in folders:
        shutil.rmtree(folder)


FAULTS = faults(sites=SITES, rounds=ROUNDS)
SCRIPTS = st.lists(FAULTS, min_size=1, max_size=6)
_QUICK = settings(
    max_examples=200,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)


@given(script=SCRIPTS)
@_QUICK
def test_a_federation_under_faults_sums_exactly_or_not_at_all(play: Callable[..., Played], script: list[Fault]) -> None:
    """Whatever is lost, late, doubled, killed, corrupted or lied about."""
    check(play(*script))


@pytest.mark.nightly
@pytest.mark.parametrize("part", range(20))
@given(script=st.lists(FAULTS, min_size=1, max_size=12))
@settings(_QUICK, max_examples=1000)
def test_twenty_thousand_scripts(play: Callable[..., Played], part: int, script: list[Fault]) -> None:
    """The same with more faults at once, and more often."""
    check(play(*script))


def test_without_faults_everybody_is_in_every_sum(play: Callable[..., Played]) -> None:
    """The rounds that the faults are held against."""
    played = play()

    check(played)
    assert played.ended == "finished"
    assert played.errors == []
    assert [entry["sites"] for entry in played.history] == [list(SITES)] * ROUNDS
    assert played.checked_by == SITES


def test_the_check_tells_a_sum_of_other_sites(play: Callable[..., Played]) -> None:
    """The control: one name left out of what the history says."""
    played = play()
    file = played.folder / "metrics.jsonl"
    file.write_text(file.read_text().replace('"a", "b", "c", "d", "e"', '"a", "b", "c", "d"', 1))

    with pytest.raises(AssertionError):
        check(played)


def test_the_check_tells_a_query_that_was_not_paid(play: Callable[..., Played]) -> None:
    """The control: a site without its ledger."""
    played = play()
    played.dry.ledger_of("c").unlink()

    with pytest.raises(AssertionError):
        check(played)


@pytest.mark.parametrize(
    ("fault", "sites", "why"),
    [
        (Fault(kind="drop", sites=("b",), rounds=(1,), phases=("open",)), "acde", "silent"),
        (Fault(kind="lose", sites=("b",), rounds=(1,), phases=("roster",)), "acde", "silent"),
        (Fault(kind="lose", sites=("b",), rounds=(1,), phases=("unmask",)), "abcde", "silent"),
        (Fault(kind="delay", sites=("b",), rounds=(1,), phases=("open",), seconds=30), "abcde", None),
        (Fault(kind="delay", sites=("b",), rounds=(1,), phases=("open",), seconds=61), "acde", "silent"),
        (Fault(kind="duplicate", sites=("b",), rounds=(1,), phases=("roster",)), "abcde", None),
        (Fault(kind="reorder", sites=("b",), rounds=(1,), phases=("roster",)), "acde", "silent"),
        (Fault(kind="kill", sites=("b",), rounds=(1,), phases=("roster",)), "acde", "silent"),
        (Fault(kind="kill", sites=("b",), rounds=(1,), phases=("roster",), moment="after"), "acde", "silent"),
        (Fault(kind="corrupt", sites=("b",), rounds=(1,), phases=("roster",), how="garbage"), "acde", "malformed"),
        (Fault(kind="corrupt", sites=("b",), rounds=(1,), phases=("roster",), how="foreign"), "acde", "malformed"),
        (Fault(kind="corrupt", sites=("b",), rounds=(1,), phases=("open",), how="refuse"), "acde", "refused"),
        (Fault(kind="lie", sites=("b",), rounds=(1,), lie="other_adapter"), "acde", "refused"),
        (Fault(kind="lie", sites=("b",), rounds=(1,), lie="other_vector"), "acde", "failed"),
        (Fault(kind="lie", sites=("b",), rounds=(1,), lie="begin_again"), "acde", "malformed"),
        (Fault(kind="lie", sites=("b",), rounds=(1,), lie="short_roster"), "acde", "failed"),
        (Fault(kind="skew", sites=("b",), seconds=1e6), "acde", "refused"),
    ],
    ids=lambda value: value.kind + value.moment if isinstance(value, Fault) else None,
)
def test_each_kind_of_fault_costs_what_it_should(
    play: Callable[..., Played], fault: Fault, sites: str, why: str | None
) -> None:
    """Who is in the first sum, and how the site that is hit is named."""
    played = play(fault)

    check(played)
    assert "".join(played.history[0]["sites"]) == sites, played.errors
    assert played.history[0]["lost"].get("b") == why, played.errors


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("phase", IN_ROUND)
def test_a_coordinator_that_is_killed_goes_on(play: Callable[..., Played], phase: Phase, moment: str) -> None:
    """From its checkpoint and journal; both rounds have everybody's sum in the end."""
    played = play(Fault(kind="kill_coordinator", rounds=(1,), phases=(phase,), moment=moment))

    check(played)
    assert [len(entry["sites"]) for entry in played.history] == [5, 5], played.errors


def test_an_error_that_nobody_foresaw_comes_out(play: Callable[..., Played], monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug is no drop-out: the property would otherwise be blind to it."""
    monkeypatch.setattr(
        "partsong.client.encoders.canary.CanaryEncoder.encode", lambda *_a, **_k: (_ for _ in ()).throw(KeyError)
    )
    with pytest.raises(KeyError):
        play()
