"""How much of a unit's gradient counts: a record's, or a patient's.

U units.
"""

from __future__ import annotations

import torch

from partsong.client.dp.settings import Clipping

AUTOS_GAMMA = 0.01
"""Bu et al. 2023 choose it and find results insensitive to it."""


def clip_weights(norm_U: torch.Tensor, *, clip_norm: float, clipping: Clipping) -> torch.Tensor:
    """Give the factor of each unit's gradient.

    Guarantees:
        - weight * norm <= clip_norm, up to float32 rounding;
        - exactly 0 for a unit whose norm is NaN or infinite, or so large that the factor would be subnormal and
          too coarse to keep the bound; finite for one of norm 0.
    Args:
        norm_U: (U,) float32, >= 0 or not finite.
        clip_norm: > 0.
        clipping: the rule.
    Source: abadi: Abadi et al. 2016 (arXiv 1607.00133), algorithm 1. autos: Bu et al. 2023 (arXiv 2206.07136),
        AUTO-S, scaled by `clip_norm`.
    """
    divisor_U = norm_U.clamp(min=clip_norm) if clipping == "abadi" else norm_U + AUTOS_GAMMA
    weight_U = clip_norm / divisor_U
    usable_U = norm_U.isfinite() & (weight_U >= torch.finfo(torch.float32).tiny)
    return torch.where(usable_U, weight_U, torch.zeros_like(norm_U))
