"""The plan: the whole job, fixed before the first record is read.

A site accepts it once; each round's query must then lie inside it. It holds data, never code.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from partsong.common.adapter import AdapterLayout
from partsong.common.build import sha256_of
from partsong.common.config import TrainingConfig
from partsong.common.fixed_point import Encoding

UPDATE = "update"
LOSS = "loss"


@dataclass(frozen=True, kw_only=True, slots=True)
class DpPlan:
    """The privacy terms: the same at every site, and the same in every round."""

    unit: Literal["record"]
    epsilon: float
    """Of the whole plan at one site, for add-or-remove-one-record neighbours."""
    delta: float
    sampling_rate: float
    clip_norm: float
    clipping: Literal["abadi", "autos"]
    noise_multiplier: float
    loss_clip: float
    loss_noise_multiplier: float
    engine: Literal["hooks", "flat"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """One run, from its first to its last round."""

    run: str
    """Name of the run; unique."""
    study: Literal["train"]
    task: Literal["causal_lm", "classification"]
    rounds: int
    base_sha256: str
    """Digest of the base model; a site with another base refuses."""
    method: Literal["ffa", "fedit"]
    lora: Mapping[str, Any]
    """Keyword arguments of `peft.LoraConfig`; a site compares them with those of its own model."""
    layout: AdapterLayout
    frozen_sha256: str
    """Digest of the adapter's frozen part, which rides beside the plan."""
    training: TrainingConfig
    sampling_rate: float
    dp: DpPlan | None
    """None: no privacy. A site's policy has to allow that by name."""
    encoding: Encoding
    minimum_cohort: int
    labels: tuple[str, ...]
    max_length: int
    seed: int | None
    """Repeatable sampling, for tests; a plan with `dp` has none."""

    def __post_init__(self) -> None:
        if self.dp is not None and self.seed is not None:
            raise ValueError("no seed in a plan with differential privacy")
        if self.dp is not None and self.dp.sampling_rate != self.sampling_rate:
            raise ValueError("one sampling rate")

    @property
    def sha256(self) -> str:
        """What the messages of the run refer to."""
        return sha256_of(self)

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run at one site."""
        return self.rounds * self.training.steps_per_round


def rotation_seed(plan_sha256: str, *, number: int, attempt: int) -> bytes:
    """Public seed of a round's rotation: every site of the round uses the same, no two rounds share one."""
    return hashlib.sha256(f"partsong rotation\0{plan_sha256}\0{number}\0{attempt}".encode()).digest()


def largest_update(training: TrainingConfig, dp: DpPlan | None, *, size: int) -> float:
    """Give a public bound that the L2 norm of a site's update practically never exceeds: the clip of a sealed vector.

    AdamW moves an entry by about the learning rate a step (Kingma and Ba 2015, section 2.1). SGD moves by the learning
    rate times the mean gradient: its clip, plus the noise of a sample of at least eight expected records.

    Args:
        training: steps, optimizer and learning rate.
        dp: privacy terms; without them SGD's gradients are taken to have norm 1.
        size: number of trained parameters.
    """
    per_round = training.steps_per_round * training.learning_rate
    if training.optim == "adamw":
        return per_round * math.sqrt(size)
    clip = 1.0 if dp is None else dp.clip_norm
    noise = 0.0 if dp is None else dp.noise_multiplier * clip * math.sqrt(size) / 8
    return per_round * (clip + noise)
