"""The base model on this disk, and the room that it will take. No torch, but for the conversion of a GGUF file."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError, safe_open

from partsong.client.model.source import locate
from partsong.common.config import ModelConfig
from partsong.common.doctor.finding import Seen, ok, warn
from partsong.common.doctor.machine import GIB
from partsong.common.errors import ModelError

LIBRARIES_BYTES = 1 * GIB
"""torch, transformers and Opacus themselves, measured at 0.6 to 0.9 GiB resident."""
_FOUR_BIT_BYTES = 0.6
"""Bytes of a weight in nf4 with its scales."""


def check_base(model: ModelConfig) -> Seen:
    """Find the base model and hash it; a GGUF file is converted, as the daemon would at its start.

    Raises:
        ModelError: nothing there, or another model than the one agreed on.
    """
    files = locate(model.source, expected_sha256=model.sha256)
    found = f"{files.name}, sha256 {files.sha256}"
    if model.sha256 is None:
        return warn(
            found,
            cause="site.yaml names no digest, so this site takes whatever lies there; a plan with another base is "
            "still refused, but only when it comes",
            remedy="set model.sha256 in site.yaml to the digest that the sites have agreed on",
        )
    return ok(f"{found}, as agreed")


def needed_bytes(model: ModelConfig, *, has_gpu: bool) -> int:
    """Estimate the memory of the process that trains.

    Args:
        model: of the site; its files must be there, and a GGUF file converted.
        has_gpu: whether a GPU will hold the weights; the host then needs room for reading them once.
    Raises:
        ModelError: weights that cannot be read.
    """
    path = Path(model.source).expanduser()
    folder = path if path.is_dir() else locate(model.source).folder
    numbers, stored = _weights(folder)
    if model.quantization == "nf4":
        return LIBRARIES_BYTES + round(numbers * _FOUR_BIT_BYTES)
    on_cpu = not has_gpu or model.device == "cpu"
    in_float32 = on_cpu and model.dtype != "bfloat16"
    return LIBRARIES_BYTES + (4 * numbers if in_float32 else max(2 * numbers, stored) if on_cpu else stored)


def _weights(folder: Path) -> tuple[int, int]:
    """Count the numbers in a folder's weights, and the bytes of their files; only the heads are read."""
    numbers, stored = 0, 0
    for file in folder.glob("*.safetensors"):
        stored += file.stat().st_size
        try:
            with safe_open(file, framework="np") as opened:
                for name in opened.keys():  # noqa: SIM118 - it is no mapping
                    size = 1
                    for extent in opened.get_slice(name).get_shape():
                        size *= extent
                    numbers += size
        except (SafetensorError, OSError) as err:
            raise ModelError(
                file.name,
                found="weights that cannot be read",
                expected="whole safetensors",
                remedy="copy the file again and compare its digest",
            ) from err
    return numbers, stored
