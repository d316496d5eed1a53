"""Injected chance, and a small plan that can be rehearsed."""

import os
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

from partsong.client.model.host import ModelHost
from partsong.common.config import SimulationConfig
from partsong.common.plan import Plan
from partsong.common.privacy.terms import DpPlan
from partsong.simulations.federation import draft, fresh_adapter
from partsong.simulations.prepare import Prepared, prepare

Configure = Callable[..., SimulationConfig]
PRIVATE = (
    "privacy=dp",
    "seed=null",
    "privacy.epsilon=6",
    "privacy.delta=1e-3",
    "sites=1",
    "cohort.minimum=1",
    "secure_sum=off",
)


@pytest.fixture
def pinned(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], np.random.Generator]:
    """Make the operating system's randomness repeatable for the engine's noise and samples; give coins of their own."""

    def pin(seed: int) -> np.random.Generator:
        monkeypatch.setattr(os, "urandom", np.random.default_rng(seed).bytes)
        return np.random.default_rng(seed + 1)

    return pin


@dataclass
class Stage:
    """What a rehearsal needs."""

    prepared: Prepared
    host: ModelHost
    plan: Plan
    dp: DpPlan


@pytest.fixture
def staged(configured: Configure) -> Callable[..., Stage]:
    """Prepare a private run of one site, its adapter at the start."""

    def stage(*overrides: str) -> Stage:
        prepared = prepare(configured(*PRIVATE, *overrides))
        plan, _ = draft(prepared, tuple(sorted(prepared.sites)), run="audit")
        start_P, frozen_F = fresh_adapter(prepared)
        prepared.host.put(frozen_F, trained=False)
        prepared.host.put(start_P)
        assert plan.dp is not None
        return Stage(prepared=prepared, host=prepared.host, plan=plan, dp=plan.dp)

    return stage
