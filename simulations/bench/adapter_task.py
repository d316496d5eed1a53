"""The adapter's task: what is trained, on what, and the bare loop that takes the same steps without a federation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from partsong.client.training.train import train_round
from partsong.common.adapters.adapter import FloatVec
from partsong.common.config import SimulationConfig
from partsong.common.plan import Plan
from partsong.simulations.configure import compose_simulation
from partsong.simulations.federation import Federation, draft, fresh_adapter
from partsong.simulations.prepare import Prepared, prepare
from partsong.simulations.run_dir import RunDir
from partsong.simulations.sites import chance

ADAPTER = (
    "model=minilm", "model.threads=1", "data=icd10", "data.max_length=32", "partition.kind=iid", "sites=20",
    "rounds=5", "training.steps_per_round=4", "adapter.r=8", "adapter.target_modules=[query,value]",
    "evaluate_every=0",
)  # fmt: skip
PLAIN = ("privacy=none", "seed=1", "secure_sum=off")
PRIVATE = ("privacy=dp", "privacy.delta=1e-3", "privacy.epsilon=20", "secure_sum=full")
_BATCH = 8


def prepared(adapter: Sequence[str], mode: Sequence[str], folder: str) -> Prepared:
    """Load model and records, with the sampling rate that gives eight records a step."""
    first = prepare(compose_simulation([*adapter, *mode, f"run_dir={folder}"]))
    return first.with_config(config_of(adapter, mode, first, folder))


def config_of(adapter: Sequence[str], mode: Sequence[str], loaded: Prepared, folder: str) -> SimulationConfig:
    """Configure the same task in another mode."""
    records = min(len(site.records) for site in loaded.sites.values())
    rate = f"privacy.sampling_rate={min(1.0, _BATCH / records):.4f}"
    return compose_simulation([*adapter, *mode, rate, f"run_dir={Path(folder)}"])


def plan_of(task: Prepared) -> Plan:
    """Draft the plan that a federation of the task would have."""
    plan, _ = draft(task, tuple(sorted(task.sites)), run="bare")
    return plan


def update_of(task: Prepared, plan: Plan, *, site: str, number: int, state_P: FloatVec, frozen_F: FloatVec) -> FloatVec:
    """Train one site for one round, on the samples that it draws in a federation."""
    task.host.put(frozen_F, trained=False)
    task.host.put(state_P)
    return train_round(
        task.host,
        task.sites[site].records,
        sampling_rate=plan.sampling_rate,
        training=plan.training,
        dp=None,
        randomness=chance(site, plan, number).samples,
    ).update_P


def bare_loop(task: Prepared) -> FloatVec:
    """Train as the federation does, without one: the same steps on the same samples, and the mean of the updates."""
    names, plan = tuple(sorted(task.sites)), plan_of(task)
    start_P, frozen_F = fresh_adapter(task)
    state_P = start_P.astype(np.float64)
    for number in range(1, plan.rounds + 1):
        total_P, round_P = np.zeros_like(state_P), state_P.astype(np.float32)
        for name in names:
            total_P += update_of(task, plan, site=name, number=number, state_P=round_P, frozen_F=frozen_F)
        state_P += total_P / len(names)
    return state_P.astype(np.float32)


def federated(task: Prepared) -> FloatVec:
    """Train as a federation."""
    return Federation(task, RunDir.create(task.config, marks=())).run().trained_P
