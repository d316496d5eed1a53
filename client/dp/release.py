"""A sum with Gaussian noise: continuous, or discrete on a grid.

N values, in the unit of the sum.
"""

from __future__ import annotations

import math
from typing import Literal

import torch

from partsong.client.dp.discrete import LARGEST_SCALE, discrete_gaussian
from partsong.client.dp.noise import standard_normal

NoiseKind = Literal["gaussian", "discrete"]


def noisy(sum_N: torch.Tensor, *, std: float, kind: NoiseKind) -> torch.Tensor:
    """Release a sum.

    Args:
        sum_N: (N,) float64, finite.
        std: of the noise, > 0.
        kind: gaussian: float64 noise on the sum. discrete: the sum is rounded to a grid of std / 2**20, and integer
            noise is added, so that no bit of the result depends on how floats are rounded.
    """
    if kind == "gaussian":
        return sum_N + std * standard_normal(len(sum_N))
    grid = std / LARGEST_SCALE
    noise_N = torch.from_numpy(discrete_gaussian(len(sum_N), scale=LARGEST_SCALE))
    return (torch.round(sum_N / grid) + noise_N) * grid


def multiplier_of(kind: NoiseKind, *, multiplier: float, size: int) -> float:
    """Give the noise multiplier to account with.

    Rounding moves each of `size` values by at most half a step of the grid, so that two neighbouring sums lie
    farther apart by at most size**(1/2) steps, of which the noise has 2**20. For shifts by whole steps discrete
    Gaussian noise has at most the Renyi divergences of continuous noise; its privacy loss distribution is taken to
    be the continuous one's, from which it differs by rounding to 2**-20 of a deviation, far below the accountant's
    own grid.

    Args:
        kind: of the noise.
        multiplier: standard deviation / sensitivity before rounding, > 0.
        size: number of values, >= 1.
    Source: Canonne, Kamath & Steinke 2020 (arXiv 2004.00010).
    """
    if kind == "gaussian":
        return multiplier
    return 1 / (1 / multiplier + math.sqrt(size) / LARGEST_SCALE)
