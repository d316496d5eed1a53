"""Gradients per record without a buffer for them: keep what they are made of, and form one layer's at a time.

Needs memory for the inputs and output gradients of the adapter's layers, whatever the number of parameters;
`partsong.client.dp.flat` needs B * P floats.

B records, T positions, I inputs, O outputs, P trainable parameters.
Source: Bu et al. 2023 (arXiv 2210.00038), book-keeping: one backward pass, then a second, weighted product.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from partsong.client.dp.guards import require_full_precision

WORKSPACE_BYTES = 64 << 20
"""Gradients of one layer are formed for as many records at once as fit into this, at least one."""


class BookKeeping:
    """Inputs and output gradients of one backward pass.

    Guarantees: norms and sum are computed in float32 from the same values, also where the pass ran in fewer bits.
    """

    def __init__(self, parameters: Sequence[torch.Tensor]) -> None:
        """Remember the order of the parameters."""
        self._parts: dict[torch.Tensor, list[tuple[torch.Tensor, torch.Tensor]]] = {p: [] for p in parameters}

    def begin(self, records: int) -> None:  # noqa: ARG002 - the face of FlatBuffer
        """Expect one backward pass."""
        self.reset()

    def put(self, parameter: torch.Tensor, out_BTO: torch.Tensor, in_BTI: torch.Tensor | None) -> None:
        """Keep one use of a layer."""
        in_BTI = out_BTO.new_ones(*out_BTO.shape[:2], 1) if in_BTI is None else in_BTI
        self._parts[parameter].append((out_BTO.detach(), in_BTI.detach()))  # the values, not their graph

    def norms(self) -> torch.Tensor:
        """Give the norm of each record's whole gradient, (B,) float32.

        Raises:
            Refused: `reduced_precision`; nothing was added.
        """
        require_full_precision()
        norms = []
        for parameter in self._parts:
            out_BTO, in_BTI = self._uses(parameter)
            step = max(1, WORKSPACE_BYTES // (4 * parameter.numel()))
            parts = zip(torch.split(out_BTO, step), torch.split(in_BTI, step), strict=True)
            norms.append(torch.cat([_norms(out, into) for out, into in parts]))
        norm_B: torch.Tensor = torch.linalg.vector_norm(torch.stack(norms, dim=1), dim=1)
        return norm_B

    def weighted_sum(self, weight_B: torch.Tensor) -> torch.Tensor:
        """Sum weight times gradient over records, (P,) float32; weight 0 counts as zero even for NaN."""
        sums = []
        dead_B = weight_B == 0
        for parameter in self._parts:
            out_BTO, in_BTI = self._uses(parameter)
            if dead_B.any():
                out_BTO, in_BTI = (x.masked_fill(dead_B[:, None, None], 0.0) for x in (out_BTO, in_BTI))
            weighted = out_BTO.float() * weight_B[:, None, None]
            sums.append((weighted.flatten(0, 1).T @ in_BTI.float().flatten(0, 1)).flatten())
        return torch.cat(sums)

    def reset(self) -> None:
        """Forget the pass and free its tensors."""
        for parts in self._parts.values():
            parts.clear()

    def _uses(self, parameter: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Put all uses of a layer one after the other along T: their products add up."""
        out, into = zip(*self._parts[parameter], strict=True)
        return (out[0], into[0]) if len(out) == 1 else (torch.cat(out, dim=1), torch.cat(into, dim=1))


def _norms(out_BTO: torch.Tensor, in_BTI: torch.Tensor) -> torch.Tensor:
    norm_B: torch.Tensor = torch.linalg.matrix_norm(torch.bmm(out_BTO.transpose(1, 2).float(), in_BTI.float()))
    return norm_B
