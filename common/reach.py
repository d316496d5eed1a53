"""How far a site's update may reach: the public clip of what is sealed."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from partsong.common.config import TrainingConfig

if TYPE_CHECKING:
    from partsong.common.privacy.terms import DpPlan


def largest_update(training: TrainingConfig, dp: DpPlan | None, *, size: int) -> float:
    """Give a public bound of the L2 norm of a site's update in one round: the clip of a sealed vector.

    Guarantees: with AdamW no gradients whatever lead past it, weight decay apart. With SGD it is a practical bound:
        the learning rate times the mean gradient, its clip plus the noise of a sample of at least eight expected
        records. A longer update is shortened, never wrapped.
    Args:
        training: steps, optimizer and learning rate.
        dp: privacy terms; without them SGD's gradients are taken to have norm 1.
        size: number of trained parameters.
    """
    if training.optim == "adamw":
        return training.learning_rate * _adam_reach(training) * math.sqrt(size)
    clip = 1.0 if dp is None else dp.clip_norm
    noise = 0.0 if dp is None else dp.noise_multiplier * clip * math.sqrt(size) / 8
    return training.steps_per_round * training.learning_rate * (clip + noise)


def _adam_reach(training: TrainingConfig) -> float:
    """Bound how many learning rates Adam moves one entry in a round: the sum over its steps of |m| / sqrt(v).

    m is a weighted mean of the gradients so far, v one of their squares, with weights a and b that add up to 1 (that
    is the bias correction), so m**2 <= sum(a**2 / b) * v by Cauchy and Schwarz. Four steps with the usual betas reach
    4.02 instead of 4. `adam_beta2` has to be above 0 for it.

    Source: Kingma & Ba 2015 (arXiv 1412.6980), algorithm 1.
    """
    beta1, beta2 = training.adam_beta1, training.adam_beta2
    ratio = beta1**2 / beta2 if beta2 else 0.0
    reach = sum_a = sum_b = sum_ratio = 0.0
    for age in range(training.steps_per_round):
        sum_a, sum_b, sum_ratio = sum_a + beta1**age, sum_b + beta2**age, sum_ratio + ratio**age
        reach += math.sqrt(sum_ratio * sum_b) / sum_a
    return reach
