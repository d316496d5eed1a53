"""A sum with Gaussian noise: continuous, or discrete on a grid.

N values, in the unit of the sum.
"""

from __future__ import annotations

from typing import Literal

import torch

from partsong.client.dp.discrete import discrete_gaussian
from partsong.client.dp.noise import standard_normal
from partsong.common.privacy.accounting import GRID_STEPS

NoiseKind = Literal["gaussian", "discrete"]


def noisy(sum_N: torch.Tensor, *, std: float, kind: NoiseKind) -> torch.Tensor:
    """Release a sum.

    Args:
        sum_N: (N,) float64, finite.
        std: of the noise, > 0.
        kind: gaussian: float64 noise on the sum. discrete: the sum is rounded to a grid of std / `GRID_STEPS`, and
            integer noise is added, so that no bit of the result depends on how floats are rounded;
            `partsong.common.privacy.accounting.on_grid` accounts for the rounding.
    """
    if kind == "gaussian":
        return sum_N + std * standard_normal(len(sum_N))
    grid = std / GRID_STEPS
    noise_N = torch.from_numpy(discrete_gaussian(len(sum_N), scale=GRID_STEPS))
    return (torch.round(sum_N / grid) + noise_N) * grid
