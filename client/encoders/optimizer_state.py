"""What a local optimizer remembers, as vectors, and back.

Shape letter: P trained adapter parameters, in the order of the optimizer.
"""

from __future__ import annotations

import numpy as np
import torch

from partsong.common.adapters.adapter import FloatVec

_COUNT = "step"
"""Torch's own count of steps, a number and no vector."""
_SLOTS = {torch.optim.SGD: (), torch.optim.AdamW: ("exp_avg", "exp_avg_sq")}
"""What each optimizer of a round keeps for each parameter, as the settings of a round make it."""

Slots = tuple[tuple[str, FloatVec], ...]


def take(optimizer: torch.optim.Optimizer) -> Slots:
    """Copy what the optimizer remembers after a step.

    Guarantees: `put` of the result, on a new optimizer over equal parameters, makes all later steps equal bit by bit.
    """
    parameters = _parameters(optimizer)
    kept = {name for p in parameters for name, value in optimizer.state[p].items() if value is not None} - {_COUNT}
    if kept != set(_SLOTS[type(optimizer)]):
        raise AssertionError("the optimizers of a round are made in one place, with these settings")
    return tuple((name, _flat([optimizer.state[p][name] for p in parameters])) for name in _SLOTS[type(optimizer)])


def put(optimizer: torch.optim.Optimizer, slots: Slots, *, step: int) -> None:
    """Give a new optimizer what another one remembered.

    Args:
        optimizer: that has taken no step.
        slots: of `take`.
        step: steps that the other one had taken, >= 1.
    Raises:
        ValueError: these are another optimizer's; nothing was changed.
    """
    parameters, expected = _parameters(optimizer), _SLOTS[type(optimizer)]
    sizes = {len(vector_P) for _, vector_P in slots}
    if tuple(name for name, _ in slots) != expected or sizes - {sum(p.numel() for p in parameters)}:
        raise ValueError("slots of the same optimizer over the same parameters")
    start = 0
    for parameter in parameters if slots else ():
        part = slice(start, start + parameter.numel())
        state = {name: _like(vector_P[part], parameter) for name, vector_P in slots}
        optimizer.state[parameter] = {_COUNT: torch.tensor(float(step)), **state}
        start = part.stop


def _parameters(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def _flat(tensors: list[torch.Tensor]) -> FloatVec:
    if any(t.dtype != torch.float32 for t in tensors):
        raise AssertionError("an adapter is trained in float32")
    flat: FloatVec = torch.cat([t.detach().reshape(-1) for t in tensors]).cpu().numpy().astype(np.float32, copy=False)
    return flat


def _like(values: FloatVec, parameter: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(np.array(values)).view_as(parameter).to(parameter.device)
