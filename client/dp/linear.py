"""Linear layers whose backward pass hands over what gradients per record are made of.

B records, T positions, I inputs, O outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import nn

from partsong.common.errors import Refused


class Sink(Protocol):
    """Takes what one linear layer knows during the backward pass."""

    def put(self, parameter: torch.Tensor, out_BTO: torch.Tensor, in_BTI: torch.Tensor | None) -> None:
        """Add sum over T of out * in to each record's gradient of `parameter`; in = 1 where there is none."""


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
