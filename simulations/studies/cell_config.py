"""From a cell to the configuration of the simulator that plays it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import partsong
from partsong.common.build import build, sha256_of, to_tree
from partsong.common.config import ModelConfig, SimulationConfig
from partsong.simulations.studies.declare import Cell, Study

_TARGETS = ("query", "value")
_LORA_ALPHA_PER_RANK = 2.0
_DELTA = 1e-5
_TAU = 1e-6
"""Far below a mean of clipped gradients, as Adam's epsilon is."""
_OF_A_MODEL = ("source", "task", "dtype", "quantization")


def spelled_out(cell: Cell, study: Study, *, model: ModelConfig, rate: float | None, records: int) -> dict[str, Any]:
    """Spell out the run of a cell: every setting in which it is not a run like any other.

    Args:
        cell: to be played. Pooled and local cells are runs of one site each, which a sum cannot hide.
        study: that it belongs to.
        model: base model.
        rate: learning rate; None where nothing is trained.
        records: that are trained on, over all sites; public here.
    """
    alone = cell.arm != "federated"
    return {
        "model": to_tree(model),
        "data": {"max_length": cell.split.max_length},
        "adapter": _adapter(cell),
        "privacy": _privacy(cell, records=records),
        **({} if rate is None else _steps(cell, rate)),
        "secure_sum": {"mode": _sum_mode(cell, study), "field_bits": cell.field_bits},
        "cohort": {"minimum": 1} if alone else {},
        "partition": {"kind": "natural", "seed": cell.seed}
        if cell.split.alpha is None
        else {"kind": "dirichlet", "alpha": cell.split.alpha, "seed": cell.seed},
        "study": study.name,
        "rounds": _rounds(cell),
        "evaluate_every": max(1, _rounds(cell) // 4) if study.scored_often else 0,
        # Under differential privacy the samples and the noise are the operating system's.
        "seed": cell.seed if cell.epsilon is None else None,
        **_ranks(cell, study),
    }


def configuration(settings: Mapping[str, Any]) -> SimulationConfig:
    """Make the configuration of a run of what was spelled out; the rest are defaults."""
    return build(SimulationConfig, dict(settings))


def digest_of(cell: Cell, settings: Mapping[str, Any], *, data: Mapping[str, str]) -> str:
    """Name everything that a cell's result depends on: SHA-256 in hex.

    What is spelled out counts, and the version of this program for the defaults. The whole configuration would not do:
    a new setting that changes nothing would lose hours of results.

    Args:
        cell: for what is no setting of a run: its arm, what it is scored on.
        settings: of its run, as `spelled_out` gives them. Threads do not count: they change no result.
        data: SHA-256 of each file, by its path below the data directory.
    """
    model = {name: value for name, value in settings["model"].items() if name in _OF_A_MODEL}
    named = {**settings, "model": model, "version": partsong.__version__}
    limit = cell.split.test_limit
    return sha256_of({"key": cell.key, "settings": named, "data": dict(data), "test_limit": limit})


def _rounds(cell: Cell) -> int:
    budget = cell.split.budget(cell.epsilon)
    return budget.rounds * (budget.steps_per_round if cell.lockstep else 1)


def _steps(cell: Cell, rate: float) -> dict[str, Any]:
    """Who takes the steps. In lockstep it is the coordinator, with as much memory as a site would have."""
    if cell.lockstep:
        training = {"steps_per_round": 1, "optim": "sgd", "learning_rate": 1.0}
        return {"training": training, "optimizer": {"name": "fedadam", "learning_rate": rate, "tau": _TAU}}
    steps = cell.split.budget(cell.epsilon).steps_per_round
    return {"training": {"steps_per_round": steps, "optim": "adamw", "learning_rate": rate}}


def _adapter(cell: Cell) -> dict[str, Any]:
    if cell.method is None or cell.rank is None:
        return {"target_modules": list(_TARGETS)}
    return {
        **cell.method.adapter,
        "r": cell.rank,
        "lora_alpha": _LORA_ALPHA_PER_RANK * cell.rank,
        "target_modules": list(_TARGETS),
        "seed": cell.seed,
    }


def _ranks(cell: Cell, study: Study) -> dict[str, Any]:
    """Spell out sites of different ranks, and the look at their updates; nothing for a run without them."""
    ranks = list(cell.method.site_ranks) if cell.method is not None else []
    looks = study.looks_at_updates and cell.arm == "federated" and cell.swept_rate is None
    return ({"site_ranks": ranks} if ranks else {}) | ({"measure_aggregation": True} if looks else {})


def _privacy(cell: Cell, *, records: int) -> dict[str, Any]:
    rate = cell.split.budget(cell.epsilon).sampling_rate
    if cell.epsilon is None:
        return {"mode": "none", "sampling_rate": rate}
    noise = {"mode": "dp", "epsilon": cell.epsilon, "delta": _DELTA, "sampling_rate": rate}
    return noise | ({"placement": "sum", "expected_batch": rate * records} if cell.placement == "sum" else {})


def _sum_mode(cell: Cell, study: Study) -> str:
    """Bytes are those of the real protocol; elsewhere its arithmetic is enough."""
    if cell.arm != "federated":
        return "off"
    return "full" if study.scored_often or cell.placement == "sum" else "sum-only"
