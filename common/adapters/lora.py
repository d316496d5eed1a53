"""Low-rank factors: their product, and adapters of other forms written as the plain A and B that PEFT loads.

Shape letters: O outputs, I inputs of a layer, r rank, R rank of all blocks together.

Five forms of B, by the tensors' names:

    X.lora_B.weight                                  (O, r), as PEFT has it
    X.lora_B.core.weight, X.lora_B.basis.weight      (r, r) and (O, r): B = basis · core
    X.lora_B.blocks.0.weight, .1, ...                (O, r) each: B = their columns side by side
    X.lora_B.product.weight                          (O, I): the whole product; A is where a site starts from zero
    X.lora_B.range.weight, .corange, .omega, .psi    sketches of the product, and what they are taken with (`sketch`)

Products are sums of elementwise products in float64, one rank after the other, and not calls of BLAS: so every machine
gives the same bits, and what is published can be compared with what follows from the sums. The one exception is a
decomposition (`truncated`), whose last bits depend on the machine: a method that needs it is for simulations.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from partsong.common.adapters.adapter import AdapterLayout, FloatVec, unflatten
from partsong.common.adapters.sketch import CORANGE, PSI, RANGE, from_both

Mat64 = NDArray[np.float64]
Tensors = Mapping[str, NDArray[np.float32]]

_B, _WEIGHT, PRODUCT = ".lora_B.", "weight", "product.weight"


def product(left_Or: NDArray[np.floating], right_rI: NDArray[np.floating]) -> Mat64:
    """Multiply a tall by a wide matrix, (O, I) float64, to the same bits on every machine."""
    total_OI = np.zeros((left_Or.shape[0], right_rI.shape[1]))
    for column_O, row_I in zip(left_Or.T.astype(np.float64), right_rI.astype(np.float64), strict=True):
        total_OI += column_O[:, None] * row_I
    return total_OI


def truncated(mean_OI: Mat64, *, rank: int) -> tuple[Mat64, Mat64]:
    """Give the factors (O, r) and (r, I) of the best approximation of a rank; rows of the second are orthonormal.

    What HLoRA and FlexLoRA do with a dense sum, for sites of whatever ranks.

    Source: Eckart & Young 1936; Bai et al. 2024, FlexLoRA (arXiv 2402.11505), section 3.
    """
    left_Om, values_m, right_mI = np.linalg.svd(mean_OI, full_matrices=False)
    return left_Om[:, :rank] * values_m[:rank], right_mI[:rank]


def is_plain(names: Iterable[str]) -> bool:
    """Whether tensors of these names are A and B as PEFT has them."""
    return all(name.endswith(_B + _WEIGHT) for name in names if _B in name)


def as_lora(tensors: Tensors) -> dict[str, NDArray[np.float32]]:
    """Write an adapter as plain A and B.

    Guarantees: the product of each layer is the same, or the best of A's rank where it is kept as a whole; of plain
        tensors nothing changes; equal tensors give equal bits on one machine, and on all without a whole product.
    Args:
        tensors: all of an adapter's, frozen and trained, by name.
    """
    plain: dict[str, NDArray[np.float32]] = {}
    for name, value in tensors.items():
        layer, mark, rest = name.partition(_B)
        if not mark or rest == _WEIGHT:
            plain[name] = value
        elif rest == "core.weight":
            basis_Or = tensors[f"{layer}{_B}basis.weight"]
            plain[layer + _B + _WEIGHT] = product(basis_Or, value).astype(np.float32)
        elif rest == "blocks.0.weight":
            plain[layer + _B + _WEIGHT] = np.concatenate(_blocks(tensors, layer), axis=1)
    return plain | _decomposed(tensors)


def _decomposed(tensors: Tensors) -> dict[str, NDArray[np.float32]]:
    """Give A and B of each layer whose product is kept as a whole."""
    found: dict[str, NDArray[np.float32]] = {}
    for name in tensors:
        layer, mark, rest = name.partition(_B)
        if mark and rest in {PRODUCT, RANGE}:
            rank = tensors[f"{layer}.lora_A.weight"].shape[0]
            left_Or, right_rI = truncated(_product_of(tensors, layer), rank=rank)
            found[layer + _B + _WEIGHT] = left_Or.astype(np.float32)
            found[f"{layer}.lora_A.weight"] = right_rI.astype(np.float32)
    return found


def published(layout: AdapterLayout, *, trained_P: FloatVec, frozen_F: FloatVec) -> dict[str, NDArray[np.float32]]:
    """Give the tensors of `adapter_model.safetensors`, as everybody writes them who has the two vectors.

    Args:
        layout: of the adapter.
        trained_P: its trained part.
        frozen_F: its frozen part.
    """
    tensors = unflatten(frozen_F, layout.frozen) | unflatten(trained_P, layout.trained)
    return {name: np.ascontiguousarray(value) for name, value in as_lora(tensors).items()}


def products(tensors: Tensors) -> dict[str, Mat64]:
    """Give each layer's product B·A, (O, I) float64, without LoRA's scale."""
    found = {}
    for name in as_lora(tensors):
        layer, mark, _ = name.partition(_B)
        if mark:
            found[layer] = _product_of(tensors, layer)
    return found


def _product_of(tensors: Tensors, layer: str) -> Mat64:
    """Multiply in float64 throughout: `as_lora` rounds B to float32 in between."""
    a_rI = tensors[f"{layer}.lora_A.weight"]
    if (whole_OI := tensors.get(layer + _B + PRODUCT)) is not None:
        return whole_OI.astype(np.float64)
    if layer + _B + RANGE in tensors:
        y_Os, w_lI, psi_lO = (tensors[layer + _B + part].astype(np.float64) for part in (RANGE, CORANGE, PSI))
        return from_both(y_Os, w_lI, psi_lO=psi_lO)
    if (core_rr := tensors.get(f"{layer}{_B}core.weight")) is not None:
        return product(tensors[f"{layer}{_B}basis.weight"], product(core_rr, a_rI))
    b_Or = tensors.get(layer + _B + _WEIGHT)
    return product(np.concatenate(_blocks(tensors, layer), axis=1) if b_Or is None else b_Or, a_rI)


def _blocks(tensors: Tensors, layer: str) -> list[NDArray[np.float32]]:
    numbers = range(sum(name.startswith(f"{layer}{_B}blocks.") for name in tensors))
    return [tensors[f"{layer}{_B}blocks.{number}.weight"] for number in numbers]
