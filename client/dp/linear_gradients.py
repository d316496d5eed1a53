"""Gradients per record of every trainable linear layer, from one backward pass, complete or refused.

B records, U units (records or patients), T positions, I inputs, O outputs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from partsong.client.dp.book_keeping import BookKeeping
from partsong.client.dp.flat import FlatBuffer
from partsong.client.dp.guards import require_rows
from partsong.client.dp.linear import install, uninstall
from partsong.client.dp.units import Segments
from partsong.common.errors import Refused

BUFFER_LIMIT_BYTES = 1 << 30
"""Above this size of the flat buffer a pass keeps books instead."""


class LinearGradients:
    """A `PerRecordGradients` from layers of its own, buffered flat or kept in books as memory allows.

    Guarantees: before any sum is formed, each trainable parameter was written in this pass, from rows that are the
    records of the loss, and none of them holds a gradient that went past.
    """

    def __init__(
        self, model: nn.Module, parameters: Sequence[nn.Parameter], *, buffer_limit_bytes: int = BUFFER_LIMIT_BYTES
    ) -> None:
        """Install the layers.

        Args:
            model: its plain linear layers with trainable parameters are taken over.
            parameters: all trainable ones, in the optimizer's order.
            buffer_limit_bytes: for the flat buffer; 0 keeps books always.
        Raises:
            Refused: as `install`.
        """
        self._parameters, self._limit = list(parameters), buffer_limit_bytes
        self._flat, self._books = FlatBuffer(parameters), BookKeeping(parameters)
        self._pass: FlatBuffer | BookKeeping = self._flat
        self._records: int | None = None
        self._written: set[torch.Tensor] = set()
        self._layers = install(model, parameters, self)

    def begin(self, records: int) -> None:
        """Expect one backward pass over this many records."""
        self.reset()
        self._pass = self._flat if self._flat.bytes_for(records) <= self._limit else self._books
        self._pass.begin(records)
        self._records = records

    def put(self, parameter: torch.Tensor, out_BTO: torch.Tensor, in_BTI: torch.Tensor | None) -> None:
        """Take one layer's part, see `Sink`.

        Raises:
            Refused: `backward_outside_of_step` or `batch_coupled_loss`; nothing was added.
        """
        if self._records is None:
            raise Refused(
                "backward_outside_of_step",
                reason="a backward pass ran that is not part of a physical batch, and would not be clipped",
                remedy="pass the loss vector to accumulate() instead of calling backward()",
            )
        require_rows(len(out_BTO), expected=self._records)
        self._pass.put(parameter, out_BTO, in_BTI)
        self._written.add(parameter)

    def norms(self, segments: Segments | None = None) -> torch.Tensor:
        """Give the norm of each unit's whole gradient, (U,) float32.

        Raises:
            Refused: `parameter_not_covered`; nothing was added.
        """
        missing = sum(p not in self._written for p in self._parameters)
        stray = sum(p.grad is not None for p in self._parameters)
        if missing or stray:
            raise Refused(
                "parameter_not_covered",
                reason=f"{missing} trainable parameters got no gradient per record in this pass, and {stray} got one "
                "past the clipping",
                remedy="train only layers that every record passes through, in train mode; or use engine=hooks",
            )
        return self._pass.norms(segments)

    def row(self, unit: int) -> torch.Tensor:
        """Give one unit's unclipped gradient, (P,)."""
        return self._pass.row(unit)

    def weighted_sum(self, weight_U: torch.Tensor) -> torch.Tensor:
        """Sum weight times gradient over units, (P,) float32; weight 0 counts as zero even for NaN."""
        return self._pass.weighted_sum(weight_U)

    def reset(self) -> None:
        """Forget the pass, complete or not."""
        self._records = None
        self._written.clear()
        self._pass.reset()

    def detach(self) -> None:
        """Turn the layers back into plain ones."""
        self.reset()
        uninstall(self._layers)
