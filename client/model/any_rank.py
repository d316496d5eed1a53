"""A model whose adapter is exchanged as its product B·A, or as sketches of it, and trained at a rank of the site's own.

Covers: what leaves has one shape, so the rank of a site shows in nothing but the rank of what it adds to the sum.
Does not cover: differential privacy. Noise on both factors is noise times noise in the product, and noise in rows that
a site does not train would train them; a plan of this kind with privacy terms is refused before it is one.

Shape letters: R the plan's rank, r a site's, O outputs, I inputs of a layer, s and l widths of sketches.

The rows of A and the columns of B beyond a site's rank are zero, and so are their gradients: an optimizer without noise
leaves them where they are, and the R-rank layer trains exactly as one of rank r.

Source: HLoRA 2025 (arXiv 2503.00813); Bai et al. 2024, FlexLoRA (arXiv 2402.11505), section 3: sites start from the
truncated global product, the coordinator averages the products. Here the sum stays as it is between rounds, so that
nobody has to agree on the bits of a decomposition; each site decomposes for itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from partsong.client.model.host import ModelHost
from partsong.client.model.lora import public_start
from partsong.common.adapters.adapter import AdapterLayout, FloatVec, TensorSpec, flatten, unflatten
from partsong.common.adapters.lora import PRODUCT, product, products
from partsong.common.adapters.sketch import CORANGE, OMEGA, PSI, RANGE, corange_width, sketches
from partsong.common.config import AdapterConfig

_A, _B, _PART = ".lora_A.weight", ".lora_B.weight", ".lora_B."
_NOTHING = 1e-6
"""Singular values below this share of the largest are rounding of float32."""

Mat32 = NDArray[np.float32]
Mat64 = NDArray[np.float64]


class AnyRankHost(ModelHost):
    """Takes and gives products or sketches of them; its own A and B are of rank `rank`."""

    def __init__(self, adapter: AdapterConfig, **given: Any) -> None:
        """Take over a model on which both factors are trained.

        Args:
            adapter: method, width of the sketches, and public seed.
            given: see `ModelHost`.
        """
        super().__init__(**given)
        bare = self.layout
        self._factors = [self._tensors[spec.name] for spec in bare.trained]
        self._layers = [spec.name.removesuffix(_B) for spec in bare.tensors if spec.name.endswith(_B)]
        self.layout = AdapterLayout(tensors=tuple(_exchanged(bare, width=adapter.sketch)))
        self._selected = self.layout.trained
        self._public = public_start(self.model, AdapterLayout(tensors=self.layout.frozen), adapter)
        self.most = int(self.lora_options["r"])
        self.rank = self.most

    def choose(self, rank: int | None) -> None:
        """Train at this rank from the next `put` on; None, and whatever is more than the plan's, is the plan's."""
        self.rank = self.most if rank is None else min(rank, self.most)

    def trainable(self) -> list[nn.Parameter]:
        """Both factors of every layer, and a head that is trained."""
        return self._factors

    def _select(self, specs: tuple[TensorSpec, ...]) -> None:
        """Every round trains everything."""
        self._selected = specs

    def _read(self, specs: tuple[TensorSpec, ...]) -> FloatVec:
        if not any(spec.trained for spec in specs):
            return flatten(self._public, specs)
        tensors = {name: value for layer in self._layers for name, value in self._seen(layer)}
        tensors |= {spec.name: self._factor(spec.name) for spec in specs if _PART not in spec.name}
        return flatten(tensors, specs)

    def _write(self, vector: FloatVec, specs: tuple[TensorSpec, ...]) -> None:
        given = unflatten(vector, specs)
        if not any(spec.trained for spec in specs):
            self._public = {name: value.copy() for name, value in given.items()}
            return
        for layer, whole_OI in products(self._public | given).items():
            self._decompose(layer, whole_OI)
        for name, value in given.items():
            if _PART not in name:
                self._put(name, value)

    def _seen(self, layer: str) -> Iterator[tuple[str, Mat32]]:
        """Give what is exchanged of a layer: its product, or both sketches of it."""
        whole_OI = product(self._factor(layer + _B), self._factor(layer + _A))
        omega_sI = self._public.get(layer + _PART + OMEGA)
        if omega_sI is None:
            yield layer + _PART + PRODUCT, whole_OI.astype(np.float32)
            return
        psi_lO = self._public[layer + _PART + PSI]
        range_Os, corange_lI = sketches(whole_OI, omega_sI=omega_sI.astype(float), psi_lO=psi_lO.astype(float))
        yield layer + _PART + RANGE, range_Os.astype(np.float32)
        yield layer + _PART + CORANGE, corange_lI.astype(np.float32)

    def _decompose(self, layer: str, whole_OI: Mat64) -> None:
        """Start from the best approximation of the site's rank; where the product has less, from A's public rows."""
        left_Om, values_m, right_mI = np.linalg.svd(whole_OI, full_matrices=False)
        kept = min(self.rank, int((values_m > _NOTHING * max(values_m[0], 1e-30)).sum()))
        public_RI = self._public[layer + _A]
        a_RI, b_OR = np.zeros(public_RI.shape), np.zeros((whole_OI.shape[0], self.most))
        a_RI[: self.rank] = public_RI[: self.rank]
        a_RI[:kept] = right_mI[:kept]
        b_OR[:, :kept] = left_Om[:, :kept] * values_m[:kept]
        self._put(layer + _A, a_RI.astype(np.float32))
        self._put(layer + _B, b_OR.astype(np.float32))

    def _factor(self, name: str) -> Mat32:
        return self._tensors[name].detach().float().cpu().numpy()

    def _put(self, name: str, value: Mat32) -> None:
        with torch.no_grad():
            self._tensors[name].copy_(torch.from_numpy(value))


def _exchanged(bare: AdapterLayout, *, width: int) -> Iterator[TensorSpec]:
    """Put the product, or its sketches, in place of each B; A is the public start of rows that have learned nothing."""
    inputs = {spec.name.removesuffix(_A): spec.shape[1] for spec in bare.tensors if spec.name.endswith(_A)}
    for spec in bare.tensors:
        layer = spec.name.removesuffix(_B)
        if spec.name.endswith(_A):
            yield TensorSpec(name=spec.name, shape=spec.shape, trained=False)
        elif not spec.name.endswith(_B):
            yield spec
        elif not width:
            yield _spec(layer, PRODUCT, spec.shape[0], inputs[layer], trained=True)
        else:
            yield _spec(layer, RANGE, spec.shape[0], width, trained=True)
            yield _spec(layer, CORANGE, corange_width(width), inputs[layer], trained=True)
            yield _spec(layer, OMEGA, width, inputs[layer], trained=False)
            yield _spec(layer, PSI, corange_width(width), spec.shape[0], trained=False)


def _spec(layer: str, part: str, *shape: int, trained: bool) -> TensorSpec:
    return TensorSpec(name=layer + _PART + part, shape=shape, trained=trained)
