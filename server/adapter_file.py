"""Adapters as files of named tensors: the one before the first round, which a run keeps so that anyone can follow it.

The start follows from the public seed, so the file holds public values only. Names are those of PEFT.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from partsong.common.adapters.adapter import AdapterLayout, FloatVec, flatten, unflatten
from partsong.common.adapters.lora import is_plain
from partsong.common.errors import DataError, WireError
from partsong.common.files import write_bytes
from partsong.server.run_files import RunFiles

FORMAT = {"format": "pt"}
"""Metadata of every adapter file; transformers asks for it."""


def keep_start(file: Path, layout: AdapterLayout, *, trained_P: FloatVec, frozen_F: FloatVec) -> None:
    """Write the start; a file that is there, of a run that is resumed, stays.

    Raises:
        TryAgain: the disk is full; there is no file.
    """
    if file.exists():
        return
    tensors = unflatten(frozen_F, layout.frozen) | unflatten(trained_P, layout.trained)
    write_bytes(file, save({name: np.ascontiguousarray(value) for name, value in tensors.items()}, metadata=FORMAT))


def keep_end(run: RunFiles, layout: AdapterLayout, *, trained_P: FloatVec, frozen_F: FloatVec) -> None:
    """Write the finished adapter in the form in which it was trained, if it is published in another one.

    Raises:
        TryAgain: the disk is full; there is no file.
    """
    if not is_plain(spec.name for spec in layout.tensors):
        run.end.unlink(missing_ok=True)
        keep_start(run.end, layout, trained_P=trained_P, frozen_F=frozen_F)


def read_end(run: RunFiles, layout: AdapterLayout) -> tuple[FloatVec, FloatVec]:
    """Read a finished adapter as it was trained: trained and frozen part.

    Raises:
        DataError: missing, damaged, or with other tensors than the layout's.
    """
    plain = is_plain(spec.name for spec in layout.tensors)
    return read_adapter(run.adapter / "adapter_model.safetensors" if plain else run.end, layout)


def read_adapter(file: Path, layout: AdapterLayout) -> tuple[FloatVec, FloatVec]:
    """Read exactly the tensors of a layout: trained and frozen part.

    Raises:
        DataError: missing, damaged, or with other tensors than the layout's.
    """
    try:
        tensors, metadata = _tensors(file)
    except (OSError, SafetensorError, TypeError, ValueError) as err:
        raise _other(file, "no safetensors file that can be read") from err
    strange = set(tensors) - {spec.name for spec in layout.tensors}
    if strange or metadata != FORMAT or any(value.dtype != np.float32 for value in tensors.values()):
        raise _other(file, "a tensor, type or format that no adapter of this plan has")
    try:
        return flatten(tensors, layout.trained), flatten(tensors, layout.frozen)
    except WireError as err:
        raise _other(file, f"other tensors ({err})") from err


def _tensors(file: Path) -> tuple[dict[str, NDArray[np.float32]], dict[str, str]]:
    with safe_open(file, framework="numpy") as opened:
        return {name: opened.get_tensor(name) for name in opened.keys()}, dict(opened.metadata() or {})  # noqa: SIM118


def _other(file: Path, found: str) -> DataError:
    return DataError(file.name, found=found, expected="the tensors that the plan lays out, in float32")
