"""How an adapter starts: from its public seed, or from the public weights of the base model. Never from records.

Shape letters: r rank, I input and O output width of a layer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from partsong.common.adapters.adapter import AdapterLayout
from partsong.common.adapters.sketch import OMEGA, PSI
from partsong.common.config import AdapterConfig
from partsong.common.errors import ModelError

_TAKES_SKETCHES = {f"B.{OMEGA}", f"B.{PSI}"}
"""Divided by the root of their width, so that a sketch is about as long as what it is taken of."""

Mat32 = NDArray[np.float32]
Mat64 = NDArray[np.float64]


class PublicStart:
    """Draws the start of each tensor, the same at everybody who knows the configuration and the base model."""

    def __init__(self, config: AdapterConfig, weight_of: Callable[[str], Mat64]) -> None:
        """Draw nothing yet.

        Args:
            config: of the adapter: its public seed, and how A starts.
            weight_of: gives the base weight (O, I) of an adapted layer, by its name; asked for `public_svd` only.
        """
        self._config = config
        self._decomposed = cache(lambda layer: _decomposed(weight_of(layer)))

    def all(self, layout: AdapterLayout) -> dict[str, Mat32]:
        """Draw every tensor of a layout."""
        return {spec.name: self.tensor(spec.name, spec.shape) for spec in layout.tensors}

    def tensor(self, name: str, shape: tuple[int, ...]) -> Mat32:
        """Draw one tensor.

        Guarantees: B, or the part of it that is trained, and biases are zero, so the adapted model begins as the base.
        """
        layer, _, part = name.partition(".lora_")
        if part == "B.basis.weight":
            return self._basis(layer, name, shape)
        if part in _TAKES_SKETCHES:
            return np.asarray(self._random(name).standard_normal(shape) / np.sqrt(shape[0]), np.float32)
        if part.startswith("B.") or len(shape) == 1:
            return np.zeros(shape, np.float32)
        if part == "A.weight" and self._config.a_init == "public_svd":
            return self._rows(layer, shape[0])
        if part == "A.weight" and self._config.a_init == "orthonormal":
            return self._orthonormal(name, shape)
        bound = 1 / np.sqrt(shape[1])
        return self._random(name).uniform(-bound, bound, shape).astype(np.float32)

    def _basis(self, layer: str, name: str, shape: tuple[int, ...]) -> Mat32:
        if self._config.a_init == "public_svd":
            left_Om = self._decomposed(layer)[0]
            _require_rank(shape[1], left_Om.shape[1])
            return left_Om[:, : shape[1]].astype(np.float32)
        return _orthonormal_rows(self._random(name).standard_normal((shape[1], shape[0]))).T.copy()

    def _rows(self, layer: str, rank: int) -> Mat32:
        right_mI = self._decomposed(layer)[1]
        _require_rank(rank, right_mI.shape[0])
        return right_mI[:rank].astype(np.float32)

    def _orthonormal(self, name: str, shape: tuple[int, ...]) -> Mat32:
        """Each stretch of a refreshed run gets a frame of its own: two of them are not orthogonal to each other."""
        random, blocks = self._random(name), self._config.refresh
        each = (shape[0] // blocks, shape[1])
        return np.concatenate([_orthonormal_rows(random.standard_normal(each)) for _ in range(blocks)])

    def _random(self, name: str) -> np.random.Generator:
        seed = hashlib.sha256(f"partsong adapter start\0{self._config.seed}\0{name}".encode()).digest()
        return np.random.Generator(np.random.Philox(int.from_bytes(seed[:16], "big")))


def base_weight(model: nn.Module, layer: str) -> Mat64:
    """Read the frozen weight under an adapted layer, (O, I) float64.

    Raises:
        ModelError: it is stored in four bits.
    """
    weight = model.get_submodule(layer).get_submodule("base_layer").get_parameter("weight")
    if not weight.is_floating_point():
        raise ModelError(
            "adapter.a_init",
            found="public_svd on a quantized base",
            expected="base weights as they are",
            remedy="set adapter.a_init=orthonormal, or model.quantization=none",
        )
    values: Mat64 = weight.detach().to("cpu", torch.float64).numpy()
    return values


def _decomposed(weight_OI: Mat64) -> tuple[Mat64, Mat64]:
    """Singular vectors by falling value; the sign makes the largest entry of each right one positive."""
    left_Om, _, right_mI = np.linalg.svd(weight_OI, full_matrices=False)
    largest_m = np.abs(right_mI).argmax(axis=1)
    sign_m = np.sign(right_mI[np.arange(len(right_mI)), largest_m])
    return left_Om * sign_m, right_mI * sign_m[:, None]


def _require_rank(rank: int, most: int) -> None:
    if rank > most:
        raise ModelError("adapter.r", found=str(rank), expected=f"at most {most}, the rank of the smallest layer")


def _orthonormal_rows(gaussian_rI: Mat64) -> Mat32:
    """Rows of a uniformly random orthonormal frame: QR of a Gaussian matrix with the signs fixed (Mezzadri 2007)."""
    q_Ir, upper_rr = np.linalg.qr(gaussian_rI.T)
    return (q_Ir * np.sign(np.diag(upper_rr))).T.astype(np.float32)
