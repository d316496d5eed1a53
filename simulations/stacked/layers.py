"""Linear layers with a weight for each of several sites: what the base model shares runs once for all their records.

S sites, N records of a pass, K most records of one site in it, T positions, I inputs, O outputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import nn

from partsong.common.errors import ModelError


@dataclass(kw_only=True, slots=True)
class Seating:
    """Whose records the pass holds that is under way; all layers of a stack read it."""

    sites: tuple[int, ...] = ()
    """Slices that have records in the pass."""
    counts: tuple[int, ...] = ()
    """Records of each of them; they stand together, in the same order."""

    @property
    def records(self) -> int:
        """N."""
        return sum(self.counts)

    def places(self, device: torch.device) -> torch.Tensor | None:
        """Row of each record, (N,), in a rectangle of K rows for each site; None where it fills the rectangle."""
        most = max(self.counts)
        if min(self.counts) == most:
            return None
        starts = [number * most + i for number, count in enumerate(self.counts) for i in range(count)]
        return torch.tensor(starts, device=device)


class StackedLinear(nn.Linear):
    """An `nn.Linear` that maps the records of each site by that site's own weight.

    Put on by changing the class of a layer that is already in the model, so names, state and hooks stay; the layer's
    own weight and bias are not used meanwhile.
    """

    seating: Seating
    weight_SOI: torch.Tensor | None
    """None: all sites share the layer's own."""
    bias_SO: torch.Tensor | None

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 - the name that nn.Linear gives it
        """Map (N, ..., I) to (N, ..., O).

        Raises:
            ModelError: the records do not stand one after the other in what comes here, so nobody can tell the sites
                apart.
        """
        if len(input) != self.seating.records:
            raise ModelError(
                "engine.stacked",
                found=f"a layer that sees {len(input)} rows of {self.seating.records} records",
                expected="layers that keep records apart",
                remedy="engine.stacked=1",
            )
        place_N = self.seating.places(input.device)
        rows_SKI = _rectangle(input, place_N, sites=len(self.seating.counts), most=max(self.seating.counts))
        weight_SOI = self._mine(self.weight_SOI, self.weight)
        flat_SXO = torch.bmm(rows_SKI.flatten(1, -2), weight_SOI.transpose(1, 2))
        if self.bias is not None:
            flat_SXO = flat_SXO + self._mine(self.bias_SO, self.bias)[:, None]
        rows = flat_SXO.reshape(-1, *input.shape[1:-1], self.out_features)
        return rows if place_N is None else rows.index_select(0, place_N)

    def _mine(self, stack: torch.Tensor | None, own: torch.Tensor) -> torch.Tensor:
        """Give the slices of the sites that have records in this pass."""
        sites = self.seating.sites
        if stack is None:
            return own.expand(len(sites), *own.shape)
        if sites == tuple(range(len(stack))):
            return stack
        return stack.index_select(0, torch.tensor(sites, device=stack.device))


def _rectangle(rows: torch.Tensor, place_N: torch.Tensor | None, *, sites: int, most: int) -> torch.Tensor:
    """See (N, ..., I) as (S, K, ..., I), with rows of zeros where a site has fewer records than another."""
    if place_N is not None:
        rows = rows.new_zeros(sites * most, *rows.shape[1:]).index_copy(0, place_N, rows)
    return rows.reshape(sites, most, *rows.shape[1:])


@dataclass(frozen=True, kw_only=True, slots=True)
class Stack:
    """The trained tensors of S sites."""

    seating: Seating
    tensors: tuple[torch.Tensor, ...]
    """Of each trained parameter, in the given order: (S, ...), leaves that require gradients."""
    layers: tuple[StackedLinear, ...] = field(repr=False)


@contextmanager
def stacked(model: nn.Module, parameters: Sequence[nn.Parameter], *, sites: int) -> Iterator[Stack]:
    """Give every site its own copy of some parameters, for the time of a block; the model's stay as they are.

    Args:
        model: that runs.
        parameters: trained ones; each begins with the value that it has now at every site.
        sites: S, >= 1.
    Raises:
        ModelError: as `owners`; nothing was changed.
    """
    layers = owners(model, parameters)
    tensors = [p.detach().expand(sites, *p.shape).clone().requires_grad_() for p in parameters]
    stack_of = {id(p): tensor for p, tensor in zip(parameters, tensors, strict=True)}
    seating = Seating()
    try:
        converted = tuple(_convert(layer, stack_of, seating) for layer in layers)
        yield Stack(seating=seating, tensors=tuple(tensors), layers=converted)
    finally:
        for layer in layers:
            _restore(layer)


def owners(model: nn.Module, parameters: Sequence[nn.Parameter]) -> list[nn.Linear]:
    """Find the layers that trained parameters belong to.

    Raises:
        ModelError: one of them belongs to a layer that is no plain `nn.Linear`, or to several.
    """
    left = {id(p): 0 for p in parameters}
    found = list[nn.Linear]()
    for name, module in model.named_modules():
        mine = [id(p) for p in module.parameters(recurse=False) if id(p) in left]
        for key in mine:
            left[key] += 1
        if mine and type(module) is not nn.Linear:
            raise _unstackable(f"a trained {type(module).__name__} ({name})")
        if mine and isinstance(module, nn.Linear):
            found.append(module)
    if any(count != 1 for count in left.values()):
        raise _unstackable("a trained parameter that several layers share")
    return found


def _unstackable(found: str) -> ModelError:
    return ModelError("engine.stacked", found=found, expected="trained linear layers alone", remedy="engine.stacked=1")


def _convert(layer: nn.Linear, stack_of: dict[int, torch.Tensor], seating: Seating) -> StackedLinear:
    layer.__class__ = StackedLinear
    assert isinstance(layer, StackedLinear)  # noqa: S101 - assigned one line above
    layer.seating = seating
    layer.weight_SOI = stack_of.get(id(layer.weight))
    layer.bias_SO = None if layer.bias is None else stack_of.get(id(layer.bias))
    return layer


def _restore(layer: nn.Linear) -> None:
    if isinstance(layer, StackedLinear):
        del layer.seating, layer.weight_SOI, layer.bias_SO
        layer.__class__ = nn.Linear  # type: ignore[assignment]  # its own class again
