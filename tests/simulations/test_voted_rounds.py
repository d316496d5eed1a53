"""Runs whose rounds are voted on: what is kept, what is undone, what is told, and what it costs."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from partsong.common import events
from partsong.common.adapters.adapter import digest
from partsong.common.config import SimulationConfig
from partsong.common.errors import ConfigError
from partsong.common.privacy.accounting import epsilon
from partsong.server.coordinator import RunNotStarted
from partsong.simulations.federation import Federation
from partsong.simulations.marks import marks
from partsong.simulations.poisoning.poisoner import Poison, Poisoner
from partsong.simulations.prepare import prepare
from partsong.simulations.run_dir import RunDir
from partsong.simulations.simulate import simulate
from partsong.simulations.verify.run import verify

Configure = Callable[..., SimulationConfig]


@pytest.fixture
def voted(configured: Configure, tmp_path: Path) -> Configure:
    """Three sites that keep thirty texts like their own for testing."""
    rows = [json.loads(line) for line in (tmp_path / "prompts.jsonl").read_text().splitlines()]
    held_out = tmp_path / "held-out.jsonl"
    held_out.write_text("".join(json.dumps(row) + "\n" for row in rows[:30]))

    def compose(*overrides: str) -> SimulationConfig:
        return configured("vote.mode=holdout", f"data.held_out={held_out}", *overrides)

    return compose


def played(config: SimulationConfig):
    """Run it; give its directory, its result and its votes."""
    folder, told = RunDir.create(config, marks=marks(config)), []
    federation = Federation(
        prepare(config),
        folder,
        listen=told.append,
    )
    result = federation.run()
    return folder, result, [event for event in told if isinstance(event, events.RoundVoted)]


def test_honest_rounds_are_kept_and_end_as_without_votes(voted: Configure) -> None:
    """Masked: the adapter of a run that nobody voted in, to within rounding, and every site signs for it."""
    _, bare, _ = played(voted("vote.mode=off", "rounds=1"))

    folder, found, votes = played(voted("rounds=1"))

    assert [(vote.round, vote.of, vote.kept) for vote in votes] == [(2, 1, True)]
    assert np.allclose(found.trained_P, bare.trained_P, atol=1e-4)
    assert found.secure_sum is not None
    assert found.secure_sum.checked_by == ("site-1", "site-2", "site-3")
    lines = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    assert [line.get("vote", {}).get("kept") for line in lines] == [None, True]
    assert lines[1]["vote"]["votes"] == pytest.approx(votes[0].votes)


def test_a_round_that_is_worse_is_undone_at_the_coordinator_and_at_every_site(voted: Configure) -> None:
    """A poisoner in the second round costs that round and no other, and all sign the adapter of the first."""

    class Late(Poisoner):
        def encode(self, asked):
            honest = Poisoner(self._honest, Poison())
            return (super() if asked.number == 3 else honest).encode(asked)

    config = voted("secure_sum.update_clip=50", "rounds=2")
    alone = dataclasses.replace(config, rounds=1)
    folder = RunDir.create(config, marks=marks(config))

    found = Federation(
        prepare(config), folder, stand_in=lambda s, own: Late(own, Poison(factor=-1e3)) if s == "site-3" else own
    ).run()

    _, first, _ = played(alone)
    kept = [line["vote"]["kept"] for line in found.history if "vote" in line]
    assert kept == [True, False]
    assert found.secure_sum is not None
    assert len(found.secure_sum.checked_by) == 3
    assert np.linalg.norm(found.trained_P - first.trained_P) < 0.05 * np.linalg.norm(first.trained_P)


def test_too_few_votes_keep_nothing(voted: Configure) -> None:
    """Silence is no consent: the round falls back, and the report says why."""
    folder, found, votes = played(voted("rounds=1", "drop=[site-2@2:train]"))

    assert [(vote.kept, vote.votes) for vote in votes] == [(False, None)]
    assert digest(found.trained_P) == found.plan.start_sha256
    assert found.history[1]["vote"] == {"of": 1, "kept": False, "votes": None, "noise_sd": 0.0}
    assert folder.path.is_dir()


def test_a_coordinator_that_dies_between_a_round_and_its_vote_goes_on_with_the_vote(
    voted: Configure, tmp_path: Path
) -> None:
    """What waits for the vote is on disk; the run ends as one that nobody killed."""
    _, whole, _ = played(voted("rounds=1"))
    script = tmp_path / "kill.yaml"
    script.write_text("faults:\n  - {kind: kill_coordinator, rounds: [2], phases: [open], moment: before}\n")

    _, found, votes = played(voted("rounds=1", f"faults={script}"))

    assert [vote.of for vote in votes] == [1]
    assert (found.trained_P == whole.trained_P).all()


@pytest.mark.nightly
def test_training_and_votes_are_paid_together(voted: Configure) -> None:
    """Each site's ledger holds both, the run's epsilon is their composition, and `verify` finds it right."""
    private = ("privacy=dp", "privacy.epsilon=6", "privacy.delta=1e-3", "vote.epsilon=1.5", "seed=null", "rounds=1")

    done = simulate(voted(*private), console=Console(quiet=True))

    plan, dp = done.result.plan, done.result.plan.dp
    assert dp is not None
    spent = epsilon(plan.releases(first=1, last=2), delta=1e-3).epsilon
    training = epsilon([plan.events(steps=plan.steps)], delta=1e-3).epsilon
    assert done.result.epsilon == spent
    assert training <= 6
    assert training < spent <= dp.epsilon < 7.5
    assert verify(done.run.path).wrong == ()
    assert "votes" in done.run.report.read_text()


def test_sites_without_test_records_cannot_vote(configured: Configure) -> None:
    """Said before anything is trained, not by falling back on what is trained on."""
    with pytest.raises(ConfigError, match=r"data\.held_out"):
        simulate(configured("vote.mode=holdout"), console=Console(quiet=True))


@pytest.mark.parametrize("setting", ["measure_aggregation=true"])
def test_settings_that_votes_cannot_be_under_are_refused(voted: Configure, setting: str) -> None:
    """Each with its name."""
    with pytest.raises(ConfigError, match=r"vote\.mode=holdout"):
        simulate(voted(setting), console=Console(quiet=True))


@pytest.mark.parametrize(("rule", "mode"), [("refuse", "holdout"), ("require", "off")])
def test_a_site_may_refuse_votes_and_may_insist_on_them(voted: Configure, tmp_path: Path, rule: str, mode: str) -> None:
    """By its policy, whatever the coordinator asks for."""
    config = voted(f"vote.mode={mode}")
    base = prepare(config).host.files.sha256
    policy = tmp_path / "policy.yaml"
    policy.write_text(
        "holdings: {records: {epsilon: 8, delta: 1.0e-3}}\n"
        "purposes: {train: {approval: auto}}\n"
        "privacy: {allow_without_privacy: true}\n"
        f"data: {{vote: {rule}, minimum_records: 1, minimum_patients: null}}\n"
        f"adapter: {{bases: [{base}], target_modules: [q_proj, v_proj]}}\n"
    )

    with pytest.raises(RunNotStarted, match=r"site-1: policy"):
        played(dataclasses.replace(config, site_policy=str(policy)))
