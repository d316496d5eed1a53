"""One canary a step: how much a single release of the real engine tells about a single record.

Covers: clipping, noise on gradients and on the loss, fresh noise at each release, the accountant's record of each.
Does not cover: sampling and the training loop (`partsong.simulations.audit.rehearsal`); the model's own layers (the
    canary's gradient is chosen freely, through one linear layer).

B records of the step, D entries of the gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from partsong.client.dp.engine import DpSettings, Stepper, private_stepper
from partsong.common.privacy.accounting import StepEvents
from partsong.simulations.audit.statistics import Noise, chance_at_least, normal_quantile

Floats = NDArray[np.float64]
MakeStepper = Callable[[nn.Module, torch.optim.Optimizer, DpSettings], Stepper]

GRADIENT_SIZE = 33
"""Entry 0 is the canary's; noise is measured on the others."""
OTHERS = 3
"""Records beside the canary, the same in every step."""
EXCESS = 10.0
"""The canary's gradient and loss before clipping / their clips."""
WARM_UP = 50
"""Steps before the first guess: the guesser learns what does not change from step to step."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StepFindings:
    """What was seen of many steps, one canary each."""

    trials: int
    """Guesses, one for each step after the warm-up."""
    right: int
    noise: Noise
    """Measured beside the canary."""
    releases: int
    """Noisy sums that were seen."""
    recorded: tuple[StepEvents, ...]
    """What the accountant recorded of them."""

    @property
    def recorded_steps(self) -> int:
        """Steps in the accountant's record."""
        return sum(event.steps for event in self.recorded)

    def leak_at_least(self, *, alpha: float) -> float:
        """Bound mu of the Gaussian mechanism that guesses as well from below; 0 where nothing is proven.

        A step that is mu-Gaussian-private allows a guess at a fair coin to be right with probability at most
        Phi(mu / 2), whatever was released before. So the number of right guesses is at most binomial, and nothing
        is assumed about noise, independence or clipping.

        Source: Dong, Roth & Su 2022 (arXiv 1905.02383), section 2.1, for the best test; Clopper & Pearson 1934.
        """
        return max(0.0, 2 * normal_quantile(chance_at_least(successes=self.right, trials=self.trials, alpha=alpha)))


def play_steps(
    settings: DpSettings, *, trials: int, random: np.random.Generator, make_stepper: MakeStepper = private_stepper
) -> StepFindings:
    """Run steps of the engine with a canary that a coin puts in or blanks out, and guess the coin each time.

    The canary has a gradient and a loss of ten times their clips. The guesser knows everything but the current coin:
    earlier coins and releases too. It subtracts the mean of what earlier releases held beside the canary (the other
    records, and noise if it repeats), weighs gradient and loss by their promised noise, and guesses "in" where more
    than half of a clipped canary is left.

    Args:
        settings: of the engine; the coins stand in the place of sampling.
        trials: guesses, >= 1.
        random: of the coins; noise has the system's.
        make_stepper: the engine.
    """
    layer = nn.Linear(GRADIENT_SIZE, 1, bias=False).train()
    optimizer = torch.optim.SGD(layer.parameters(), lr=1.0)
    coins = random.random(WARM_UP + trials) < 0.5
    with closing(make_stepper(layer, optimizer, settings)) as stepper:
        return _play(layer, stepper, settings, coins)


@dataclass(kw_only=True, slots=True)
class _Guesser:
    """Scores each release against the mean of those before it."""

    settings: DpSettings
    past: Floats = field(default_factory=lambda: np.zeros(GRADIENT_SIZE + 1))
    seen: int = 0
    squares: float = 0.0

    def score(self, release: Floats) -> float:
        """Give about 1 for a canary that is in, about 0 for one that is out."""
        rest = release - self.past / max(self.seen, 1)
        weights = self._promised[[0, -1]] ** -2
        return float((weights * rest[[0, -1]]).sum() / weights.sum())

    def learn(self, release: Floats, *, included: bool) -> None:
        """Take in a release whose coin is now known."""
        rest = release.copy()
        rest[[0, -1]] -= float(included)
        if self.seen:
            # Helmert: independent of one another, each with the deviation of the noise.
            noise = (rest - self.past / self.seen) * np.sqrt(self.seen / (self.seen + 1)) / self._promised
            self.squares += float((noise[1:-1] ** 2).sum())
        self.past, self.seen = self.past + rest, self.seen + 1

    @property
    def _promised(self) -> Floats:
        """Deviation of each value of a release, in clips."""
        gradient = np.full(GRADIENT_SIZE, self.settings.noise_multiplier)
        return np.append(gradient, self.settings.loss_noise_multiplier)


def _play(layer: nn.Linear, stepper: Stepper, settings: DpSettings, coins: NDArray[np.bool_]) -> StepFindings:
    guesser, right = _Guesser(settings=settings), 0
    for number, included in enumerate(coins.tolist()):
        release = _step(layer, stepper, settings, included=included)
        if number >= WARM_UP:
            right += (guesser.score(release) > 0.5) == included
        guesser.learn(release, included=included)
    return StepFindings(
        trials=len(coins) - WARM_UP,
        right=right,
        noise=Noise(squares=guesser.squares, count=(GRADIENT_SIZE - 1) * (len(coins) - 1)),
        releases=len(coins),
        recorded=stepper.events,
    )


def _step(layer: nn.Linear, stepper: Stepper, settings: DpSettings, *, included: bool) -> Floats:
    """Make one step from weights of zero, and read what it released: gradient sum and loss sum, in clips."""
    with torch.no_grad():
        layer.weight.zero_()
    input_BD = torch.zeros(OTHERS + 1, GRADIENT_SIZE)
    input_BD[:OTHERS, 1 : OTHERS + 1] = torch.eye(OTHERS) * settings.clip_norm
    base_B = torch.full((OTHERS + 1,), settings.loss_clip / 2)
    base_B[OTHERS] = 0.0
    if included:
        input_BD[OTHERS, 0] = EXCESS * settings.clip_norm
        base_B[OTHERS] = EXCESS * settings.loss_clip
    stepper.accumulate(layer(input_BD).squeeze(1) + base_B)
    result = stepper.step()
    gradient = -layer.weight.detach().double().numpy()[0] * settings.expected_batch / settings.clip_norm
    return np.append(gradient, result.noisy_loss_mean * settings.expected_batch / settings.loss_clip)
