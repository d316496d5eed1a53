"""What the study of generation plays: the base model, one model of everything, each site's own, the joint one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from partsong.common.build import to_tree
from partsong.common.config import ModelConfig
from partsong.simulations.studies.declare import Grid

Arm = Literal["base", "pooled", "alone", "federated"]
"""base: nothing is trained. pooled: one site holds everything. alone: one site trains on its own. federated: all sites
train together. Whoever trains takes the same rounds, steps and sampling rate."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One model."""

    arm: Arm
    seed: int
    site: str | None = None
    """Whose model it is; None: nobody's own."""

    @property
    def key(self) -> str:
        """Unique in the study."""
        return "_".join(filter(None, (self.arm, self.site, f"seed{self.seed}")))


@dataclass(frozen=True, kw_only=True, slots=True)
class Lineup:
    """A grid."""

    real: bool
    """MedQuAD; else made-up pairs."""
    sites: tuple[str, ...]
    train: int
    """Pairs that each site learns from, at most."""
    test: int
    """Pairs of each site's kind that are held out, at most."""
    continued: int
    """Of them, the first ones that a model has to answer in words of its own."""
    max_length: int
    """Longest pair [tokens]."""
    most_new_tokens: int
    targets: tuple[str, ...]
    rounds: int
    steps_per_round: int
    sampling_rate: float
    learning_rate: float
    seeds: tuple[int, ...]

    def cells(self) -> tuple[Cell, ...]:
        """List the grid seed by seed, so that one that was cut short still compares every line."""
        return tuple(
            cell
            for seed in self.seeds
            for cell in (
                *((Cell(arm="base", seed=seed),) if seed == self.seeds[0] else ()),
                Cell(arm="federated", seed=seed),
                Cell(arm="pooled", seed=seed),
                *(Cell(arm="alone", seed=seed, site=site) for site in self.sites),
            )
        )


_PUBLISHERS = ("CancerGov", "GARD", "GHR", "MedlinePlus", "NIDDK", "NINDS")
_TARGETS = ("q_proj", "v_proj")
LINEUPS: Mapping[Grid, Lineup] = {
    "full": Lineup(
        real=True,
        sites=_PUBLISHERS,
        train=800,
        test=100,
        continued=20,
        max_length=256,
        most_new_tokens=96,
        targets=_TARGETS,
        rounds=40,
        steps_per_round=10,
        sampling_rate=0.02,
        learning_rate=3e-3,
        seeds=(0, 1, 2),
    ),
    "cpu": Lineup(
        real=True,
        sites=_PUBLISHERS,
        train=80,
        test=20,
        continued=4,
        max_length=128,
        most_new_tokens=48,
        targets=_TARGETS,
        rounds=8,
        steps_per_round=6,
        sampling_rate=0.04,
        learning_rate=3e-3,
        seeds=(0,),
    ),
    "smoke": Lineup(
        real=False,
        sites=("site-card", "site-loan", "site-transfer"),
        train=20,
        test=4,
        continued=1,
        max_length=48,
        most_new_tokens=4,
        targets=_TARGETS,
        rounds=1,
        steps_per_round=2,
        sampling_rate=0.3,
        learning_rate=3e-3,
        seeds=(0,),
    ),
}


def settings_of(cell: Cell, lineup: Lineup, *, model: ModelConfig) -> dict[str, Any]:
    """Spell out the run of a cell.

    Args:
        cell: to be played.
        lineup: that it belongs to.
        model: base model.
    """
    alone = cell.arm != "federated"
    return {
        "model": to_tree(model),
        "data": {"max_length": lineup.max_length},
        "adapter": {
            "method": "ffa",
            "a_init": "orthonormal",
            "r": 8,
            "lora_alpha": 16.0,
            "target_modules": list(lineup.targets),
            "seed": cell.seed,
        },
        "privacy": {"mode": "none", "sampling_rate": lineup.sampling_rate},
        "training": {
            "steps_per_round": lineup.steps_per_round,
            "optim": "adamw",
            "learning_rate": lineup.learning_rate,
        },
        "secure_sum": {"mode": "off" if alone else "sum-only"},
        "cohort": {"minimum": 1} if alone else {},
        "partition": {"kind": "natural", "seed": cell.seed},
        "study": "generation",
        "rounds": lineup.rounds,
        "evaluate_every": 0,
        "seed": cell.seed,
    }
