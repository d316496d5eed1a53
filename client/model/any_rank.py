"""A model whose adapter is exchanged as the whole product B·A, and trained at whatever rank its site chooses.

Covers: what leaves has one shape, so the rank of a site shows in nothing but the rank of what it adds to the sum.
Does not cover: differential privacy. Noise on both factors is noise times noise in the product, and noise in rows that
a site does not train would train them; a plan of this kind with privacy terms is refused before it is one.

Shape letters: R the plan's rank, r a site's, O outputs, I inputs of a layer, P numbers of all products.

The rows of A and the columns of B beyond a site's rank are zero, and so are their gradients: an optimizer without noise
leaves them where they are, and the R-rank layer trains exactly as one of rank r.

Source: HLoRA 2025 (arXiv 2503.00813); Bai et al. 2024, FlexLoRA (arXiv 2402.11505), section 3: sites start from the
truncated global product, the coordinator averages the products. Here the product stays whole between rounds, so that
nobody has to agree on the bits of a decomposition; each site decomposes for itself.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from partsong.client.model.host import ModelHost
from partsong.common.adapters.adapter import AdapterLayout, FloatVec, TensorSpec, flatten, unflatten
from partsong.common.adapters.lora import PRODUCT, product

_A, _B, _WHOLE = ".lora_A.weight", ".lora_B.weight", f".lora_B.{PRODUCT}"
_NOTHING = 1e-6
"""Singular values below this share of the largest are rounding of float32."""

Mat32 = NDArray[np.float32]


class AnyRankHost(ModelHost):
    """Takes and gives products; its own A and B are of rank `rank`."""

    def __init__(self, **given: Any) -> None:
        """Take over a model on which both factors are trained; see `ModelHost`."""
        super().__init__(**given)
        bare = self.layout
        self._factors = [self._tensors[spec.name] for spec in bare.trained]
        self._bases = {
            s.name: self._tensors[s.name].detach().float().cpu().numpy().copy()
            for s in bare.tensors
            if s.name.endswith(_A)
        }
        self.layout = AdapterLayout(tensors=tuple(_whole(spec, bare) for spec in bare.tensors))
        self._selected = self.layout.trained
        self.most = int(self.lora_options["r"])
        self.rank = self.most

    def choose(self, rank: int | None) -> None:
        """Train at this rank from the next `put` on; None, and whatever is more than the plan's, is the plan's."""
        self.rank = self.most if rank is None else min(rank, self.most)

    def trainable(self) -> list[nn.Parameter]:
        """Both factors of every layer, and a head that is trained."""
        return self._factors

    def _read(self, specs: tuple[TensorSpec, ...]) -> FloatVec:
        return flatten({spec.name: self._value(spec.name) for spec in specs}, specs)

    def _write(self, vector: FloatVec, specs: tuple[TensorSpec, ...]) -> None:
        for name, value in unflatten(vector, specs).items():
            if name in self._bases:
                self._bases[name] = value.copy()
            elif name.endswith(_WHOLE):
                self._decompose(name.removesuffix(_WHOLE), value)
            else:
                self._put(name, value)

    def _select(self, specs: tuple[TensorSpec, ...]) -> None:
        """Every round trains everything."""
        self._selected = specs

    def _value(self, name: str) -> Mat32:
        if name in self._bases:
            return self._bases[name]
        if not name.endswith(_WHOLE):
            return self._factor(name)
        layer = name.removesuffix(_WHOLE)
        return product(self._factor(layer + _B), self._factor(layer + _A)).astype(np.float32)

    def _decompose(self, layer: str, whole_OI: Mat32) -> None:
        """Start from the best approximation of the site's rank; where the product has less, from A's public rows."""
        left_Om, values_m, right_mI = np.linalg.svd(whole_OI.astype(np.float64), full_matrices=False)
        kept = min(self.rank, int((values_m > _NOTHING * max(values_m[0], 1e-30)).sum()))
        a_RI = np.zeros_like(self._bases[layer + _A], np.float64)
        a_RI[: self.rank] = self._bases[layer + _A][: self.rank]
        a_RI[:kept] = right_mI[:kept]
        b_OR = np.zeros((whole_OI.shape[0], self.most))
        b_OR[:, :kept] = left_Om[:, :kept] * values_m[:kept]
        self._put(layer + _A, a_RI.astype(np.float32))
        self._put(layer + _B, b_OR.astype(np.float32))

    def _factor(self, name: str) -> Mat32:
        return self._tensors[name].detach().float().cpu().numpy()

    def _put(self, name: str, value: Mat32) -> None:
        with torch.no_grad():
            self._tensors[name].copy_(torch.from_numpy(value))


def _whole(spec: TensorSpec, layout: AdapterLayout) -> TensorSpec:
    """Put the product in place of B; A is the public start of a row that has not learned anything yet."""
    if spec.name.endswith(_A):
        return TensorSpec(name=spec.name, shape=spec.shape, trained=False)
    if not spec.name.endswith(_B):
        return spec
    layer = spec.name.removesuffix(_B)
    (a,) = (other for other in layout.tensors if other.name == layer + _A)
    return TensorSpec(name=layer + _WHOLE, shape=(spec.shape[0], a.shape[1]), trained=True)
