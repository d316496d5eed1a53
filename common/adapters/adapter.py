"""The adapter as named tensors and as one vector.

Shape letters: P trained parameters, F frozen parameters.

The layout fixes the order of the tensors; the vector is their concatenation, row by row. Names are those of a
PEFT `adapter_model.safetensors`, so that what coordinator and sites exchange and what is published agree.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from partsong.common.errors import WireError

FloatVec = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorSpec:
    """One tensor of the adapter."""

    name: str
    shape: tuple[int, ...]
    trained: bool
    """Whether it is part of the update; the rest is published once and stays."""

    @property
    def size(self) -> int:
        """Number of entries."""
        return prod(self.shape)


@dataclass(frozen=True, kw_only=True, slots=True)
class AdapterLayout:
    """Order, names and shapes of all tensors of an adapter."""

    tensors: tuple[TensorSpec, ...]

    def __post_init__(self) -> None:
        names = [t.name for t in self.tensors]
        if len(set(names)) != len(names):
            raise ValueError("tensor names without repeats")
        if any(d < 1 for t in self.tensors for d in t.shape):
            raise ValueError("tensor shapes with positive sides")

    @property
    def trained(self) -> tuple[TensorSpec, ...]:
        """The tensors that make up an update, in order."""
        return tuple(t for t in self.tensors if t.trained)

    @property
    def frozen(self) -> tuple[TensorSpec, ...]:
        """The tensors that every site takes over once, in order."""
        return tuple(t for t in self.tensors if not t.trained)

    def size(self, *, trained: bool) -> int:
        """P or F."""
        return sum(t.size for t in self.tensors if t.trained == trained)


def flatten(tensors: Mapping[str, NDArray[np.float32]], specs: tuple[TensorSpec, ...]) -> FloatVec:
    """Concatenate the named tensors in the order of `specs`.

    Raises:
        WireError: a tensor is missing or has another shape.
    """
    parts: list[NDArray[np.float32]] = []
    for spec in specs:
        value = tensors.get(spec.name)
        if value is None or value.shape != spec.shape:
            found = "nothing" if value is None else f"shape {value.shape}"
            raise WireError(f"adapter tensor {spec.name}: found {found}, expected shape {spec.shape}")
        parts.append(np.ascontiguousarray(value, dtype=np.float32).reshape(-1))
    return np.concatenate(parts) if parts else np.zeros(0, np.float32)


def unflatten(vector: FloatVec, specs: tuple[TensorSpec, ...]) -> dict[str, NDArray[np.float32]]:
    """Cut a vector into named tensors; the inverse of `flatten`.

    Raises:
        WireError: the vector has another length than the layout.
    """
    total = sum(s.size for s in specs)
    if vector.shape != (total,):
        raise WireError(f"adapter vector: found shape {vector.shape}, expected ({total},)")
    ends = np.cumsum([s.size for s in specs]).tolist()
    return {s.name: vector[end - s.size : end].reshape(s.shape) for s, end in zip(specs, ends, strict=True)}


def digest(vector: FloatVec) -> str:
    """SHA-256 over the little-endian float32 entries."""
    return hashlib.sha256(np.ascontiguousarray(vector, "<f4").view(np.uint8).data).hexdigest()
