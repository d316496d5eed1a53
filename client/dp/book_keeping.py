"""Gradients per record without a buffer for them: keep what they are made of, and form one layer's at a time.

Needs memory for the inputs and output gradients of the adapter's layers, whatever the number of parameters;
`partsong.client.dp.flat` needs B * P floats.

B records, U units (records or patients), T positions, I inputs, O outputs, P trainable parameters.
Source: Bu et al. 2023 (arXiv 2210.00038), book-keeping: one backward pass, then a second, weighted product.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from partsong.client.dp.guards import require_full_precision
from partsong.client.dp.units import Segments

WORKSPACE_BYTES = 64 << 20
"""Gradients of one layer are formed for as many records at once as fit into this, at least one."""


class BookKeeping:
    """Inputs and output gradients of one backward pass.

    Guarantees: norms and sum are computed in float32 from the same values, also where the pass ran in fewer bits.
    """

    def __init__(self, parameters: Sequence[torch.Tensor]) -> None:
        """Remember the order of the parameters."""
        self._parts: dict[torch.Tensor, list[tuple[torch.Tensor, torch.Tensor]]] = {p: [] for p in parameters}
        self._segments: Segments | None = None

    def begin(self, records: int) -> None:  # noqa: ARG002 - the face of FlatBuffer
        """Expect one backward pass."""
        self.reset()

    def put(self, parameter: torch.Tensor, out_BTO: torch.Tensor, in_BTI: torch.Tensor | None) -> None:
        """Keep one use of a layer."""
        in_BTI = out_BTO.new_ones(*out_BTO.shape[:2], 1) if in_BTI is None else in_BTI
        self._parts[parameter].append((out_BTO.detach(), in_BTI.detach()))  # the values, not their graph

    def norms(self, segments: Segments | None = None) -> torch.Tensor:
        """Give the norm of each unit's whole gradient, (U,) float32.

        Raises:
            Refused: `reduced_precision`; nothing was added.
        """
        require_full_precision()
        self._segments = segments
        layers = self._norms_of_records() if segments is None else self._norms_of_units(segments)
        norm_U: torch.Tensor = torch.linalg.vector_norm(torch.stack(layers, dim=1), dim=1)
        return norm_U

    def row(self, unit: int) -> torch.Tensor:
        """Give one unit's gradient, (P,); `norms` was told of the units."""
        if self._segments is None:
            raise AssertionError("the optimizer asks for a row only where it has told the units")
        return torch.cat([self._product(p, self._segments, unit, start).flatten() for p, start in self._places()])

    def weighted_sum(self, weight_U: torch.Tensor) -> torch.Tensor:
        """Sum weight times gradient over units, (P,) float32; weight 0 counts as zero even for NaN."""
        segments = self._segments
        weight_B = weight_U if segments is None else segments.spread(weight_U)
        sums = []
        dead_B = weight_B == 0
        for parameter in self._parts:
            out_BTO, in_BTI = self._uses(parameter)
            if dead_B.any():
                out_BTO, in_BTI = (x.masked_fill(dead_B[:, None, None], 0.0) for x in (out_BTO, in_BTI))
            weighted = out_BTO.float() * weight_B[:, None, None]
            sums.append((weighted.flatten(0, 1).T @ in_BTI.float().flatten(0, 1)).flatten())
        sum_P = torch.cat(sums)
        if segments is not None and segments.carry_P is not None and weight_U[0] != 0:
            sum_P += weight_U[0] * segments.carry_P
        return sum_P

    def reset(self) -> None:
        """Forget the pass and free its tensors."""
        for parts in self._parts.values():
            parts.clear()
        self._segments = None

    def _norms_of_records(self) -> list[torch.Tensor]:
        """Per layer (B,): the gradients of as many records at once as the workspace holds."""
        norms = []
        for parameter in self._parts:
            out_BTO, in_BTI = self._uses(parameter)
            step = max(1, WORKSPACE_BYTES // (4 * parameter.numel()))
            parts = zip(torch.split(out_BTO, step), torch.split(in_BTI, step), strict=True)
            norms.append(torch.cat([_norms(out, into) for out, into in parts]))
        return norms

    def _norms_of_units(self, segments: Segments) -> list[torch.Tensor]:
        """Per layer (U,): the gradient of one unit at a time, whatever the number of its records."""
        return [
            torch.stack(
                [
                    torch.linalg.vector_norm(self._product(parameter, segments, unit, start))
                    for unit in range(len(segments.spans))
                ]
            )
            for parameter, start in self._places()
        ]

    def _product(self, parameter: torch.Tensor, segments: Segments, unit: int, start: int) -> torch.Tensor:
        """Form one unit's gradient of one layer, (O, I): its records one after the other along T."""
        first, behind = segments.spans[unit]
        out, into = (x[first:behind].float().flatten(0, 1) for x in self._uses(parameter))
        gradient = out.T @ into
        if unit == 0 and segments.carry_P is not None:
            gradient += segments.carry_P[start : start + parameter.numel()].view_as(gradient)
        return gradient

    def _places(self) -> Iterator[tuple[torch.Tensor, int]]:
        """Each parameter and where it begins in a gradient of all."""
        start = 0
        for parameter in self._parts:
            yield parameter, start
            start += parameter.numel()

    def _uses(self, parameter: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Put all uses of a layer one after the other along T: their products add up."""
        out, into = zip(*self._parts[parameter], strict=True)
        return (out[0], into[0]) if len(out) == 1 else (torch.cat(out, dim=1), torch.cat(into, dim=1))


def _norms(out_BTO: torch.Tensor, in_BTI: torch.Tensor) -> torch.Tensor:
    norm_B: torch.Tensor = torch.linalg.matrix_norm(torch.bmm(out_BTO.transpose(1, 2).float(), in_BTI.float()))
    return norm_B
