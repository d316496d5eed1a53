"""What a private step is told, what it answers, and the face that every kind of step shows to training.

A unit is a record, or a patient with all records of the sample. B records of a physical batch, P trainable parameters.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

import torch

from partsong.client.dp.guards import refuse_choice
from partsong.client.dp.release import NoiseKind
from partsong.common.privacy.accounting import StepEvents, Unit, joint_multiplier, on_grid

Clipping = Literal["abadi", "autos"]
Engine = Literal["hooks", "flat"]


@dataclass(frozen=True, kw_only=True, slots=True)
class DpSettings:
    """Clips, noise and sampling of one run at one site; together they are the accounting event of a step."""

    clip_norm: float
    """L2 bound C of one unit's gradient, > 0."""
    clipping: Clipping
    """abadi: scaled by min(1, C/n). autos: by C/(n + 0.01)."""
    noise_multiplier: float
    """Standard deviation of the noise on the gradient sum / `clip_norm`, > 0."""
    sampling_rate: float
    """Poisson rate of the sampler, (0, 1]; only recorded."""
    expected_batch: float
    """Units that a step is divided by: rate times number of units, never the size of the sample."""
    loss_clip: float
    """One unit's loss counts as between 0 and this in the released loss, > 0."""
    loss_noise_multiplier: float
    """Standard deviation of the noise on the loss sum / `loss_clip`, > 0."""
    engine: Engine
    """Where per-record gradients come from: Opacus hooks, or one flat buffer."""
    noise: NoiseKind = "gaussian"
    """gaussian: float64, rounded once. discrete: integers on a grid, exact; some ten times slower to draw."""
    unit: Unit = "record"
    """What is clipped as a whole. With patients every pass says whose records it holds."""

    def __post_init__(self) -> None:
        refuse_choice(self.clipping, self.engine)
        numbers = (self.clip_norm, self.noise_multiplier, self.expected_batch, self.loss_clip)
        if not all(math.isfinite(x) and x > 0 for x in (*numbers, self.loss_noise_multiplier)):
            raise ValueError("clips, noise multipliers and expected batch above 0 and finite")
        if not 0 < self.sampling_rate <= 1:
            raise ValueError(f"sampling_rate in (0, 1], not {self.sampling_rate}")
        for name, kind in (("clipping", Clipping), ("engine", Engine), ("noise", NoiseKind), ("unit", Unit)):
            if getattr(self, name) not in get_args(kind):
                raise ValueError(f"{name} one of {', '.join(get_args(kind))}")

    def step_multiplier(self, *, size: int) -> float:
        """Give the noise multiplier of everything that one step releases: `size` parameters and a loss."""
        gradient, loss = self.noise_multiplier, self.loss_noise_multiplier
        if self.noise == "discrete":
            gradient, loss = on_grid(gradient, size=size), on_grid(loss, size=1)
        return joint_multiplier(gradient, loss)


@dataclass(frozen=True, kw_only=True, slots=True)
class LocalStats:
    """Exact figures about one logical batch. They are not private and never leave the site."""

    units: int
    nonfinite_units: int
    """Units whose gradient or loss was NaN, infinite or too large to square; they counted as zero."""
    loss_mean: float
    """Unclipped mean over the finite losses; 0 for an empty batch."""
    norm_mean: float
    """Mean gradient norm of the finite units before clipping; 0 for an empty batch or where not measured."""
    clipped_fraction: float
    """Part of the units whose gradient norm exceeded the clip; 0 for an empty batch or without clipping."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StepResult:
    """One optimizer step."""

    noisy_loss_mean: float
    """Clipped, noised sum of losses / expected batch: part of the step's release, accounted with it.

    A step without privacy gives the exact mean over its units instead."""
    local: LocalStats


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ClippedSums:
    """What a logical batch adds up to, exactly. Not private: it leaves a site under noise only."""

    gradient_P: torch.Tensor
    """(P,) float32 sum of the clipped gradients, on the CPU."""
    loss: float
    """Sum of the clipped losses."""
    local: LocalStats


class Accumulator(Protocol):
    """Takes a logical batch, one physical batch after the other."""

    def accumulate(self, loss_B: torch.Tensor, unit_B: Sequence[int] | None = None) -> None:
        """Add one physical batch to the logical batch.

        Guarantees: all of the physical batch is added, or, if this raises, nothing.
        Args:
            loss_B: (B,) loss of each record with its graph; entry b depends on record b alone. The losses of one unit
                add up to the unit's loss.
            unit_B: whose record each one is, by a number that never falls within a logical batch: the records of a
                unit stand together, in one physical batch or in several that follow one another. None: each record
                is a unit.
        Raises:
            Refused: the loss is coupled over records, a trainable parameter escaped the clipping, or the units are
                not those of the settings.
        """

    def discard_partial(self) -> None:
        """Forget what an interrupted forward or backward pass left behind; the logical batch so far is kept."""


class Stepper(Accumulator, Protocol):
    """Turns losses per record into optimizer steps; one logical batch is any number of `accumulate`, one `step`."""

    def step(self) -> StepResult:
        """Release the logical batch, empty or not, step the optimizer, and begin the next logical batch."""

    def close(self) -> None:
        """Take everything off the model that was put on it; the model is as before, its weights trained."""

    @property
    def events(self) -> tuple[StepEvents, ...]:
        """What was released so far, as the accountant recorded it at each step."""
