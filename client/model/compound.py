"""Second factors of LoRA that are made of more than one matrix. They take the place of PEFT's B inside its layer.

Shape letters: r rank, E blocks, O output width.

Each part is an `nn.Linear` of its own, so that per-record gradients are taken of the trained one alone.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import nn


class Core(nn.Module):
    """B = basis · core, with a frozen basis (O, r) and a trained core (r, r).

    Source: Singhal et al. 2025, Fed-SB (arXiv 2502.15436).
    """

    def __init__(self, b: nn.Linear) -> None:
        """Make room for the parts in place of `b`."""
        super().__init__()
        self.core = _linear(b.in_features, b.in_features, like=b)
        self.basis = _linear(b.in_features, b.out_features, like=b)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Map (..., r) to (..., O)."""
        return cast(torch.Tensor, self.basis(self.core(hidden)))


class Blocks(nn.Module):
    """B as blocks of columns (O, r / E), of which one is trained at a time; the others stay in the forward pass."""

    def __init__(self, b: nn.Linear, *, count: int) -> None:
        """Make room for the blocks in place of `b`."""
        super().__init__()
        self._width = b.in_features // count
        self.blocks = nn.ModuleList(_linear(self._width, b.out_features, like=b) for _ in range(count))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Map (..., r) to (..., O)."""
        parts = torch.split(hidden, self._width, dim=-1)
        return cast(torch.Tensor, sum(block(part) for block, part in zip(self.blocks, parts, strict=True)))


def replace_b(model: nn.Module, *, core: bool, blocks: int) -> None:
    """Put the compound factor on every adapted layer; with neither a core nor several blocks nothing changes."""
    for module in list(model.modules()):
        factors: Any = getattr(module, "lora_B", None)
        if isinstance(factors, nn.ModuleDict) and "default" in factors:
            b = cast(nn.Linear, factors["default"])
            if core:
                factors["default"] = Core(b)
            elif blocks > 1:
                factors["default"] = Blocks(b, count=blocks)


def _linear(inputs: int, outputs: int, *, like: nn.Linear) -> nn.Linear:
    return nn.Linear(inputs, outputs, bias=False, device=like.weight.device, dtype=like.weight.dtype)
