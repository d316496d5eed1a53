"""How much of a record's gradient counts.

B records.
"""

from __future__ import annotations

import torch

from partsong.client.dp.settings import Clipping

AUTOS_GAMMA = 0.01
"""Bu et al. 2023 choose it and find results insensitive to it."""


def clip_weights(norm_B: torch.Tensor, *, clip_norm: float, clipping: Clipping) -> torch.Tensor:
    """Give the factor of each record's gradient.

    Guarantees:
        - weight * norm <= clip_norm, up to float32 rounding;
        - exactly 0 for a record whose norm is NaN or infinite, or so large that the factor would be subnormal and
          too coarse to keep the bound; finite for one of norm 0.
    Args:
        norm_B: (B,) float32, >= 0 or not finite.
        clip_norm: > 0.
        clipping: the rule.
    Source: abadi: Abadi et al. 2016 (arXiv 1607.00133), algorithm 1. autos: Bu et al. 2023 (arXiv 2206.07136),
        AUTO-S, scaled by `clip_norm`.
    """
    divisor_B = norm_B.clamp(min=clip_norm) if clipping == "abadi" else norm_B + AUTOS_GAMMA
    weight_B = clip_norm / divisor_B
    usable_B = norm_B.isfinite() & (weight_B >= torch.finfo(torch.float32).tiny)
    return torch.where(usable_B, weight_B, torch.zeros_like(norm_B))
