"""Gradients per record in one float32 buffer that the backward pass writes itself.

Norm, clip and sum all read that buffer: what is clipped is what is released. For a low-rank adapter the gradient
of one record is small, so it is cheaper to have it than to go backward twice.

B records, U units (records or patients), T positions, I inputs, O outputs, P trainable parameters.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from partsong.client.dp.units import Segments


class FlatBuffer:
    """One (B, P) buffer, grown to the largest batch and kept."""

    def __init__(self, parameters: Sequence[torch.Tensor]) -> None:
        """Lay out the buffer; memory is taken at the first pass."""
        self._offsets: dict[torch.Tensor, int] = {}
        size = 0
        for parameter in parameters:
            self._offsets[parameter] = size
            size += parameter.numel()
        self._buffer = torch.empty(0, size, dtype=torch.float32, device=parameters[0].device)
        self._rows = 0
        self._written: set[torch.Tensor] = set()

    def bytes_for(self, records: int) -> int:
        """Give the size of the buffer for this many records."""
        return records * self._buffer.shape[1] * self._buffer.element_size()

    def begin(self, records: int) -> None:
        """Make room for one backward pass over this many records."""
        self.reset()
        if len(self._buffer) < records:
            self._buffer = self._buffer.new_empty(0, self._buffer.shape[1])  # free first: both need not fit
            self._buffer = self._buffer.new_empty(records, self._buffer.shape[1])
        self._rows = records

    def put(self, parameter: torch.Tensor, out_BTO: torch.Tensor, in_BTI: torch.Tensor | None) -> None:
        """Write one layer's gradient of every record, or add to it where the layer was used before."""
        start = self._offsets[parameter]
        rows = self._buffer[: self._rows, start : start + parameter.numel()].view(-1, *parameter.shape)
        again = parameter in self._written
        if in_BTI is None:
            _store(rows, out_BTO.sum(dim=1, dtype=torch.float32), add=again)
        elif out_BTO.dtype == in_BTI.dtype == torch.float32 and not again:
            torch.bmm(out_BTO.transpose(1, 2), in_BTI, out=rows)
        else:
            _store(rows, torch.bmm(out_BTO.transpose(1, 2).to(in_BTI.dtype), in_BTI), add=again)
        self._written.add(parameter)

    def norms(self, segments: Segments | None = None) -> torch.Tensor:
        """Give the norm of each unit's row, (U,) float32; from here on the rows are those of units."""
        rows_UP = self._buffer[: self._rows]
        if segments is not None:
            rows_UP = segments.collapse(rows_UP)
            self._rows = len(rows_UP)
        norm_U: torch.Tensor = torch.linalg.vector_norm(rows_UP, dim=1)
        return norm_U

    def row(self, unit: int) -> torch.Tensor:
        """Copy one unit's row, (P,); to be called between `norms` and `weighted_sum`."""
        return self._buffer[unit].clone()

    def weighted_sum(self, weight_U: torch.Tensor) -> torch.Tensor:
        """Sum weight times row over units, (P,) float32; weight 0 counts as zero even for NaN.

        Scales the rows in place, entry by entry: a matrix product might run in fewer bits, by a setting of torch that
        is not ours, and break the bound.
        """
        rows_UP = self._buffer[: self._rows]
        dead_U = weight_U == 0
        if dead_U.any():
            rows_UP[dead_U] = 0.0
        return rows_UP.mul_(weight_U[:, None]).sum(dim=0)

    def reset(self) -> None:
        """Forget the pass; the memory is kept."""
        self._rows = 0
        self._written.clear()


def _store(rows: torch.Tensor, values: torch.Tensor, *, add: bool) -> None:
    if add:
        rows.add_(values)
    else:
        rows.copy_(values)
