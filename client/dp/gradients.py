"""Where per-record gradients come from: the face of every source, and Opacus' hooks as one.

B records and U units (records or patients) of a physical batch, P trainable parameters in the order of the optimizer.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
from opacus.grad_sample import prepare_module
from torch import nn

from partsong.client.dp.guards import require_reentrant_checkpointing, require_rows
from partsong.client.dp.units import Segments
from partsong.common.errors import Refused


class PerRecordGradients(Protocol):
    """Per-record gradients of one backward pass at a time."""

    def begin(self, records: int) -> None:
        """Expect one backward pass over this many records."""

    def norms(self, segments: Segments | None = None) -> torch.Tensor:
        """Norm of each unit's whole gradient, (U,) float32; not finite where the gradient is not.

        Args:
            segments: which records make a unit; None: each its own.
        Raises:
            Refused: a trainable parameter got no gradient per record.
        """

    def row(self, unit: int) -> torch.Tensor:
        """Unclipped gradient of one unit, (P,); after `norms` and before `weighted_sum`."""

    def weighted_sum(self, weight_U: torch.Tensor) -> torch.Tensor:
        """Sum over units of weight times gradient, (P,) float32; weight 0 counts as zero even for NaN."""

    def reset(self) -> None:
        """Forget the pass, complete or not, and every captured activation."""

    def detach(self) -> None:
        """Take everything off the model."""


class HookGradients:
    """Opacus' hooks: any layer type that Opacus knows, at the price of its own copies."""

    def __init__(self, model: nn.Module, parameters: Sequence[nn.Parameter]) -> None:
        """Attach the hooks.

        Raises:
            Refused: `checkpointing_under_hooks`, `buffers_in_trained_layer`; nothing was attached.
        """
        require_reentrant_checkpointing(model)
        self._model, self._parameters, self._records = model, list(parameters), 0
        self._rows: list[torch.Tensor] = []
        try:
            self._hooks = prepare_module(model, "hooks", wrap_model=False, batch_first=True, loss_reduction="sum")
        except NotImplementedError as err:
            raise Refused(
                "buffers_in_trained_layer",
                reason="a trained layer keeps state of its own, which Opacus cannot tell apart by record",
                remedy="freeze that layer",
            ) from err
        self._inputs = [m.register_forward_pre_hook(_give_inputs_a_graph) for m in _owners(model)]

    def begin(self, records: int) -> None:
        """Expect one backward pass over this many records."""
        self._records = records

    def norms(self, segments: Segments | None = None) -> torch.Tensor:
        """Norm of each unit's whole gradient, (U,) float32."""
        self._rows, start = [], 0
        for parameter in self._parameters:
            rows = self._rows_of(parameter)
            self._rows.append(rows if segments is None else segments.collapse(rows, start=start))
            start += parameter.numel()
        norms = [torch.linalg.vector_norm(rows, dim=1) for rows in self._rows]
        norm_U: torch.Tensor = torch.linalg.vector_norm(torch.stack(norms, dim=1), dim=1)
        return norm_U

    def row(self, unit: int) -> torch.Tensor:
        """Unclipped gradient of one unit, (P,)."""
        return torch.cat([rows[unit] for rows in self._rows])

    def weighted_sum(self, weight_U: torch.Tensor) -> torch.Tensor:
        """Sum over units of weight times gradient, (P,) float32."""
        dead_U = weight_U == 0
        sums = []
        for rows in self._rows:
            if dead_U.any():
                rows[dead_U] = 0.0
            sums.append((rows * weight_U[:, None]).sum(dim=0))  # entry by entry, as in FlatBuffer
        return torch.cat(sums)

    def reset(self) -> None:
        """Forget the pass, complete or not, and every captured activation."""
        self._rows = []
        for parameter in self._parameters:
            parameter.grad = None
            opacus: Any = parameter
            opacus.grad_sample, opacus._forward_counter = None, 0  # noqa: SLF001 - Opacus' own bookkeeping
            _drop(parameter, "_current_grad_sample")
        for module in self._model.modules():
            _drop(module, "max_batch_len")
            if hasattr(module, "activations"):
                opacus = module
                opacus.activations = []

    def detach(self) -> None:
        """Take the hooks and Opacus' attributes off the model."""
        self.reset()
        self._hooks.cleanup()
        for handle in self._inputs:
            handle.remove()
        for parameter in self._parameters:
            for name in ("grad_sample", "_forward_counter"):
                _drop(parameter, name)
        for module in self._model.modules():
            _drop(module, "activations")

    def _rows_of(self, parameter: nn.Parameter) -> torch.Tensor:
        rows = getattr(parameter, "grad_sample", None)
        if not isinstance(rows, torch.Tensor):
            raise Refused(
                "parameter_not_covered",
                reason="a trainable parameter got no gradient per record in this pass",
                remedy="train only layers that every record passes through once per forward pass",
            )
        require_rows(len(rows), expected=self._records)
        return rows.view(len(rows), -1).float()


def _owners(model: nn.Module) -> Iterator[nn.Module]:
    for module in model.modules():
        if any(p.requires_grad for p in module.parameters(recurse=False)):
            yield module


def _give_inputs_a_graph(_module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Let the gradient reach the inputs of a layer behind frozen ones: only then does its backward hook fire."""
    if not torch.is_grad_enabled():
        return inputs
    return tuple(
        x.detach().requires_grad_()
        if isinstance(x, torch.Tensor) and x.is_floating_point() and not x.requires_grad
        else x
        for x in inputs
    )


def _drop(owner: object, name: str) -> None:
    with contextlib.suppress(AttributeError):
        delattr(owner, name)
