"""The audit finds what is planted into the real engine, and finds nothing where nothing is.

Chance is pinned, so every test gives the same answer each time; with free chance a sound engine would fail in at most
0.1 % of audits, which is how the audit is built and what `test_statistics` and `test_estimators` check.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from partsong.client.dp.accountant import PldAccountant
from partsong.client.dp.release import noisy
from partsong.client.encoders.encoder import LocalUpdate
from partsong.client.training.train import train_round
from partsong.common.privacy.accounting import StepEvents
from partsong.simulations.audit.rehearsal import listen, watch
from partsong.simulations.audit.run import ClaimBroken, settings_of
from partsong.simulations.audit.statistics import Noise
from partsong.simulations.audit.steps import StepFindings, play_steps
from partsong.simulations.audit.verdict import Verdict, judge

Pin = Callable[[int], np.random.Generator]
OPTIMIZER = "partsong.client.dp.optimizer"


SOUND = StepFindings(
    trials=600,
    right=420,
    noise=Noise(squares=20_000.0, count=20_000),
    releases=600,
    recorded=(StepEvents(sampling_rate=1.0, noise_multiplier=1.1, steps=600),),
)
"""What single steps of a sound engine look like, for audits in which the loop is at fault."""


@pytest.fixture
def audited(staged: Any, pinned: Pin) -> Callable[..., Verdict]:
    """Audit a small plan, in all its parts, or with another training loop around the sound engine."""

    def run(train: Any = None) -> Verdict:
        stage = staged("privacy.sampling_rate=0.3", "rounds=2", "training.steps_per_round=3")
        random, loop = pinned(1), train or train_round
        records = stage.prepared.sites["site-1"].records
        steps = SOUND if train else play_steps(settings_of(stage.dp), trials=600, random=random)
        watched = watch(stage.host, records, plan=stage.plan, canaries=100, random=random, train=loop)
        noise = listen(stage.host, plan=stage.plan, train=loop)
        return judge(stage.plan, stage.dp, steps=steps, watched=watched, noise=noise, confidence=0.999)

    return run


def test_the_sound_engine_is_not_contradicted(audited: Callable[..., Verdict]) -> None:
    """Every bound lies below the claim, and the strongest is worth something."""
    verdict = audited()

    assert verdict.failed == ()
    assert verdict.claim.planned == pytest.approx(verdict.claim.recorded)
    assert 5.9 < verdict.claim.epsilon <= 6
    assert max(b.epsilon for b in verdict.bounds) > verdict.claim.epsilon / 3


def test_gradients_that_are_not_clipped_are_found(
    audited: Callable[..., Verdict], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A canary of ten times the clip stands out of the noise."""
    monkeypatch.setattr(f"{OPTIMIZER}.clip_weights", lambda norm_B, **_: torch.ones_like(norm_B))

    verdict = audited()

    assert verdict.failed == ("single steps",)
    assert verdict.bounds[0].epsilon > 2 * verdict.claim.epsilon


def test_half_the_noise_is_found(audited: Callable[..., Verdict], monkeypatch: pytest.MonkeyPatch) -> None:
    """By what it tells about single canaries, and by its size; the error names both and exits with 1."""
    monkeypatch.setattr(f"{OPTIMIZER}.noisy", lambda sum_N, *, std, kind: noisy(sum_N, std=std / 2, kind=kind))

    verdict = audited()

    assert verdict.failed == ("single steps", "noise of the engine", "noise of the loop")
    assert verdict.checks[0].bound == pytest.approx(0.5, abs=0.02)
    assert ClaimBroken.exit_code == 1
    for part in ("single steps", "noise of the engine", "claim of epsilon 5.99", "do not train private records"):
        assert part in str(ClaimBroken(verdict))


def test_noise_that_is_used_again_is_found(audited: Callable[..., Verdict], monkeypatch: pytest.MonkeyPatch) -> None:
    """Two releases with one noise tell their difference exactly; the noise has the right size all the same."""
    kept: dict[int, torch.Tensor] = {}

    def again(sum_N: torch.Tensor, *, std: float, kind: Any) -> torch.Tensor:
        fresh = noisy(torch.zeros_like(sum_N), std=std, kind=kind)
        return sum_N + kept.setdefault(len(sum_N), fresh)

    monkeypatch.setattr(f"{OPTIMIZER}.noisy", again)

    verdict = audited()

    assert {"single steps", "noise of the engine", "noise of the loop"} <= set(verdict.failed)
    assert verdict.checks[0].bound < 1e-3


def test_steps_that_are_not_recorded_are_found(
    audited: Callable[..., Verdict], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The recorded epsilon is what a ledger would promise, so the bound is held against that."""
    record, calls = PldAccountant.step, iter(range(10**6))

    def forgetful(self: PldAccountant, *, noise_multiplier: float, sample_rate: float) -> None:
        if next(calls) % 4 == 0:
            record(self, noise_multiplier=noise_multiplier, sample_rate=sample_rate)

    monkeypatch.setattr(PldAccountant, "step", forgetful)

    verdict = audited()

    assert verdict.claim.epsilon == verdict.claim.recorded < 0.7 * verdict.claim.planned
    assert verdict.failed == ("single steps", "accounting")


def test_a_sample_that_is_too_large_is_found(audited: Callable[..., Verdict]) -> None:
    """The training loop is watched, not only the engine."""

    def greedy(*arguments: Any, sampling_rate: float, **more: Any) -> LocalUpdate:
        return train_round(*arguments, sampling_rate=min(1.0, 2 * sampling_rate), **more)

    assert "sampling rate" in audited(greedy).failed


def test_a_loop_that_takes_more_steps_than_planned_is_found(audited: Callable[..., Verdict]) -> None:
    """The claim is for the steps of the plan."""

    def eager(*arguments: Any, training: Any, **more: Any) -> LocalUpdate:
        return train_round(*arguments, training=replace(training, steps_per_round=4), **more)

    assert audited(eager).failed == ("steps of the loop",)


def test_a_loop_that_asks_for_less_noise_is_found(audited: Callable[..., Verdict]) -> None:
    """An engine that keeps its promise does not help where the loop promises something else."""

    def quiet(*arguments: Any, dp: Any, **more: Any) -> LocalUpdate:
        return train_round(*arguments, dp=replace(dp, noise_multiplier=0.9 * dp.noise_multiplier), **more)

    assert audited(quiet).failed == ("noise of the loop",)
