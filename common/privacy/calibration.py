"""How much noise a budget takes: the planner, for a whole run or for what is left of a budget.

Source: bisection over the accountant of `partsong.common.privacy.accounting`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

from partsong.common.errors import Refused
from partsong.common.privacy.accounting import (
    COARSE_GRID,
    HIGHEST_NOISE,
    LOWEST_NOISE,
    StepEvents,
    check_delta,
    composed,
    joint_multiplier,
)

NOISE_DIGITS = 4
"""Calibrated noise multipliers are multiples of 10**-4, so that a plan prints them in full."""


CALIBRATION_SLACK = 1e-4
"""Part of the epsilon that calibration leaves for the cut of samples, which only a site can account."""


@functools.lru_cache(maxsize=32)
def calibrate(
    *, sampling_rate: float, steps: int, epsilon: float, delta: float, loss_noise_ratio: float | None
) -> float:
    """Find the smallest gradient noise multiplier whose whole run stays within the budget.

    Guarantees and Raises: those of `replan` with nothing spent yet.
    """
    return replan(
        history=(),
        sampling_rate=sampling_rate,
        steps=steps,
        epsilon=epsilon,
        delta=delta,
        loss_noise_ratio=loss_noise_ratio,
    )


def replan(
    *,
    history: Sequence[StepEvents],
    sampling_rate: float,
    steps: int,
    epsilon: float,
    delta: float,
    loss_noise_ratio: float | None,
) -> float:
    """Find the smallest gradient noise multiplier for further steps on top of what was already done.

    Guarantees:
        - history and new steps together cost at most `epsilon`; the next smaller multiple of 1e-4 costs more
          than (1 - 1e-4) `epsilon`;
        - deterministic; about 1 s.
    Args:
        history: events already spent.
        sampling_rate: of the steps to come.
        steps: to come.
        epsilon: > 0, for all together.
        delta: (0, 1).
        loss_noise_ratio: noise multiplier of the released loss / that of the gradient; None: no loss is released.
    Raises:
        Refused: `budget_spent`, if no noise keeps the budget; nothing was changed.
    """
    check_delta(delta)
    if epsilon <= 0:
        raise ValueError(f"epsilon above 0, not {epsilon}")
    spent = composed(history, grid=COARSE_GRID)
    share = 1.0 if loss_noise_ratio is None else joint_multiplier(1.0, loss_noise_ratio)

    def kept(noise: float) -> bool:
        new = StepEvents(sampling_rate=sampling_rate, noise_multiplier=noise * share, steps=steps)
        total = spent.compose(composed([new], grid=COARSE_GRID))
        return bool(total.get_epsilon_for_delta(delta) <= epsilon * (1 - CALIBRATION_SLACK))

    return _smallest(kept)


def _smallest(kept: Callable[[float], bool]) -> float:
    """Bisect the monotone predicate `kept` over multiples of 10**-NOISE_DIGITS, starting near 1."""
    scale = int(10**NOISE_DIGITS)
    low, high = scale, scale
    while not kept(high / scale):
        low, high = high, math.ceil(high * math.sqrt(2))
        if high > HIGHEST_NOISE * scale:
            raise Refused(
                "budget_spent",
                reason="what was spent leaves nothing for these steps, whatever the noise",
                remedy="ask for fewer steps, or for a larger budget",
            )
    while low == high or kept(low / scale):
        low, high = math.floor(low / math.sqrt(2)), low
        if low < LOWEST_NOISE * scale:
            return high / scale
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if kept(middle / scale) else (middle, high)
    return high / scale
