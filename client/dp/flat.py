"""Per-record gradients of linear layers, written by the backward pass itself into one float32 buffer.

Norm, clip and sum all read that buffer: what is clipped is what is released. For a low-rank adapter the gradient
of one record is small, so it is cheaper to have it than to go backward twice.

B records, T positions, I inputs, O outputs, P trainable parameters.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Protocol

import torch
from torch import nn

from partsong.client.dp.guards import require_rows
from partsong.common.errors import Refused


class Sink(Protocol):
    """Takes what one linear layer knows during the backward pass."""

    def put(self, parameter: torch.Tensor, out_BTO: torch.Tensor, in_BTI: torch.Tensor | None) -> None:
        """Add sum over T of out * in to each record's gradient of `parameter`; in = 1 where there is none."""


class FlatBuffer:
    """One (B, P) float32 buffer, grown to the largest batch and kept."""

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        """Lay out the buffer; memory is taken at the first pass."""
        self._offsets: dict[torch.Tensor, int] = {}
        size = 0
        for parameter in parameters:
            self._offsets[parameter] = size
            size += parameter.numel()
        self._size = size
        self._buffer = torch.empty(0, size, dtype=torch.float32, device=parameters[0].device)
        self._records: int | None = None
        self._written: set[torch.Tensor] = set()

    def begin(self, records: int) -> None:
        """Expect one backward pass over this many records."""
        self.reset()
        if len(self._buffer) < records:
            device = self._buffer.device
            self._buffer = torch.empty(0, self._size, device=device)  # free first: both need not fit
            self._buffer = torch.empty(records, self._size, dtype=torch.float32, device=device)
        self._records = records

    def put(self, parameter: torch.Tensor, out_BTO: torch.Tensor, in_BTI: torch.Tensor | None) -> None:
        """Write one layer's gradient of every record, or add to it where the layer was used before."""
        require_rows(len(out_BTO), expected=self._expected())
        start = self._offsets[parameter]
        rows = self._buffer[: len(out_BTO), start : start + parameter.numel()].view(-1, *parameter.shape)
        again = parameter in self._written
        if in_BTI is None:
            _store(rows, out_BTO.sum(dim=1, dtype=torch.float32), add=again)
        elif out_BTO.dtype == in_BTI.dtype == torch.float32 and not again:
            torch.bmm(out_BTO.transpose(1, 2), in_BTI, out=rows)
        else:
            _store(rows, torch.bmm(out_BTO.transpose(1, 2).to(in_BTI.dtype), in_BTI), add=again)
        self._written.add(parameter)

    def norms(self) -> torch.Tensor:
        """Norm of each record's row, (B,) float32."""
        require_all_written(self._written, self._offsets)
        norm_B: torch.Tensor = torch.linalg.vector_norm(self._buffer[: self._expected()], dim=1)
        return norm_B

    def weighted_sum(self, weight_B: torch.Tensor) -> torch.Tensor:
        """Sum over records of weight times row, (P,) float32; weight 0 counts as zero even for NaN."""
        rows_BP = self._buffer[: len(weight_B)]
        dead_B = weight_B == 0
        if dead_B.any():
            rows_BP[dead_B] = 0.0
        return weight_B @ rows_BP

    def reset(self) -> None:
        """Forget the pass; the memory is kept."""
        self._records = None
        self._written.clear()

    def _expected(self) -> int:
        if self._records is None:
            raise Refused(
                "backward_outside_of_step",
                reason="a backward pass ran that is not part of a physical batch, and would not be clipped",
                remedy="pass the loss vector to accumulate() instead of calling backward()",
            )
        return self._records


def require_all_written(written: Collection[torch.Tensor], parameters: Collection[torch.Tensor]) -> None:
    """Refuse a pass in which a parameter was not reached through its layer.

    Raises:
        Refused: `parameter_not_covered`; nothing was added.
    """
    missing = [p for p in parameters if p not in written]
    stray = [p for p in parameters if p.grad is not None]
    if missing or stray:
        raise Refused(
            "parameter_not_covered",
            reason=f"{len(missing)} trainable parameters got no gradient per record in this pass and {len(stray)} got "
            "one past the clipping",
            remedy="train only layers that every record passes through, in train mode; or use engine=hooks",
        )


class RecordLinear(nn.Linear):
    """An `nn.Linear` whose backward pass hands over gradients per record instead of their sum.

    Put on by changing the class of a layer that is already in the model, so names, state and hooks stay.
    """

    record_sink: Sink

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 - the name that nn.Linear gives it
        """Map (B, ..., I) to (B, ..., O)."""
        if not (self.training and torch.is_grad_enabled()):
            return super().forward(input)
        weight: torch.Tensor = self.weight
        bias: torch.Tensor | None = self.bias
        if torch.is_autocast_enabled(input.device.type):
            dtype = torch.get_autocast_dtype(input.device.type)
            input, weight = input.to(dtype), weight.to(dtype)  # noqa: A001 - as above
            bias = None if bias is None else bias.to(dtype)
        result: torch.Tensor = _LinearPerRecord.apply(input, weight, bias, self)  # type: ignore[no-untyped-call]  # torch's own
        return result


class _LinearPerRecord(torch.autograd.Function):
    """Linear map whose parameters' gradients go to the layer's sink; autograd never sums them over records."""

    @staticmethod
    def forward(
        ctx: Any, input_BTI: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, layer: RecordLinear
    ) -> torch.Tensor:
        ctx.save_for_backward(input_BTI, weight)
        ctx.layer = layer
        return nn.functional.linear(input_BTI, weight, bias)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (out_BTO,) = grads
        input_BTI, weight = ctx.saved_tensors
        layer: RecordLinear = ctx.layer
        if layer.weight.requires_grad:
            layer.record_sink.put(layer.weight, _three(out_BTO), _three(input_BTI))
        if layer.bias is not None and layer.bias.requires_grad:
            layer.record_sink.put(layer.bias, _three(out_BTO), None)
        return (out_BTO @ weight if ctx.needs_input_grad[0] else None), None, None, None


def _three(values: torch.Tensor) -> torch.Tensor:
    """See (B, ..., X) as (B, T, X)."""
    return values.reshape(len(values), -1, values.shape[-1])


def _store(rows: torch.Tensor, values: torch.Tensor, *, add: bool) -> None:
    if add:
        rows.add_(values)
    else:
        rows.copy_(values)


def install(model: nn.Module, parameters: Sequence[nn.Parameter], sink: Sink) -> list[RecordLinear]:
    """Make every trainable linear layer report to `sink`.

    Raises:
        Refused: `parameter_not_covered` or `parameter_shared`, if a trainable parameter does not belong to exactly
            one plain `nn.Linear`; nothing was changed.
    """
    owners: dict[nn.Parameter, int] = dict.fromkeys(parameters, 0)
    layers = []
    for module in model.modules():
        mine = [p for p in module.parameters(recurse=False) if p in owners]
        if not mine:
            continue
        if type(module) is not nn.Linear:
            raise Refused(
                "parameter_not_covered",
                reason=f"the flat engine knows linear layers, not the trainable {type(module).__name__}",
                remedy="train linear layers only, or use engine=hooks",
            )
        layers.append(module)
        for parameter in mine:
            owners[parameter] += 1
    if any(count != 1 for count in owners.values()):
        raise Refused(
            "parameter_shared", reason="a trainable parameter belongs to several layers", remedy="untie or freeze it"
        )
    return [_convert(layer, sink) for layer in layers]


def _convert(layer: nn.Linear, sink: Sink) -> RecordLinear:
    layer.__class__ = RecordLinear
    assert isinstance(layer, RecordLinear)  # noqa: S101 - assigned one line above
    layer.record_sink = sink
    return layer


def uninstall(layers: Sequence[RecordLinear]) -> None:
    """Turn the layers back into plain `nn.Linear`."""
    for layer in layers:
        del layer.record_sink
        layer.__class__ = nn.Linear  # type: ignore[assignment]  # its own class again


class FlatGradients(FlatBuffer):
    """The flat buffer together with the layers that fill it."""

    def __init__(self, model: nn.Module, parameters: Sequence[nn.Parameter]) -> None:
        """Install the layers.

        Raises:
            Refused: as `install`.
        """
        super().__init__(parameters)
        self._layers = install(model, parameters, self)

    def detach(self) -> None:
        """Turn the layers back into plain ones."""
        self.reset()
        uninstall(self._layers)
