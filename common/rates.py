"""Learning rates of a plan's rounds."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from partsong.common.config import TrainingConfig

if TYPE_CHECKING:
    from partsong.common.plan import Plan


def learning_rate(training: TrainingConfig, *, number: int, rounds: int) -> float:
    """Give the rate of round `number`: linear and cosine fall from the full rate in round 1 towards 0 after the last.

    Args:
        training: rate of the first round and schedule.
        number: of the round, 1 to `rounds`.
        rounds: of the run.
    """
    done = (number - 1) / rounds
    factor = {"constant": 1.0, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}
    return training.learning_rate * factor[training.lr_scheduler_type]


def step_rate(plan: Plan, *, number: int) -> float:
    """Give the learning rate of round `number`, with that of its turn."""
    turn = plan.turn(number)
    rate = learning_rate(plan.training, number=plan.training_number(number), rounds=plan.training_rounds)
    return rate * (1.0 if turn is None else turn.learning_rate)
