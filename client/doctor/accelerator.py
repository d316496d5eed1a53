"""The GPU as torch sees it. Imports torch and nothing above it, so that what fails here is not another library."""

from __future__ import annotations

import warnings

import torch

from partsong.common.config import ModelConfig
from partsong.common.doctor.finding import Seen, fail, ok, warn
from partsong.common.doctor.machine import GIB


def check_gpu(model: ModelConfig, *, has_device: bool) -> Seen:
    """Say which device will train, and multiply two matrices on it.

    Args:
        model: of the site.
        has_device: whether this machine shows a GPU to its processes at all.
    """
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")  # torch tells about a driver that is too old in a warning
        device = _device(model)
    if device.type != "cuda" or not torch.cuda.is_available():
        if device.type == "cuda" and not has_device:
            return fail(
                f"site.yaml wants {model.device}, and no GPU is here",
                cause="this machine, or this container, shows none to its processes",
                remedy="pass the GPU through, or set model.device=auto",
            )
        if has_device and model.device != "cpu":
            reason = str(said[0].message).splitlines()[0] if said else "torch does not say why"
            return fail(
                f"a GPU is here, and torch cannot use it: {reason}",
                cause="a driver older than this torch wants, a torch built for the CPU, or a container without the GPU",
                remedy="compare `nvidia-smi` with the CUDA version of `python -c 'import torch; print(torch.version."
                "cuda)'`; in a container pass the GPU through, and again after a daemon-reload on cgroup v2",
            )
        return ok(f"no GPU; training runs on {device.type}")
    ones = torch.ones(64, 64, device=device)
    exact = bool((ones @ ones == 64).all())
    free, total = torch.cuda.mem_get_info(device)
    name = torch.cuda.get_device_name(device)
    found = f"{name}, {free / GIB:.0f} of {total / GIB:.0f} GiB free, CUDA {torch.version.cuda}"
    if not exact:
        return fail(
            f"{found}; 64 ones times 64 ones is not 64",
            cause="the GPU or its driver computes wrongly",
            remedy="take this GPU out of service and look at its error counters (nvidia-smi -q -d ECC)",
        )
    return ok(found)


def check_bfloat16(model: ModelConfig) -> Seen:
    """Say whether the number format that will be used runs on this device."""
    device = _device(model)
    wants = model.dtype == "bfloat16" or (model.dtype == "auto" and device.type == "cuda" and model.task == "causal_lm")
    if not wants:
        return ok("not used: base weights are float32")
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return warn(
            "this GPU has no bfloat16",
            cause="it is emulated, several times slower",
            remedy="set model.dtype=float32 in site.yaml",
        )
    product = torch.ones(8, 8, dtype=torch.bfloat16, device=device) @ torch.ones(
        8, 8, dtype=torch.bfloat16, device=device
    )
    if not bool((product == 8).all()):
        return fail(
            "a product in bfloat16 is wrong",
            cause="the device or its driver computes wrongly",
            remedy="set model.dtype=float32 in site.yaml, and look at the device",
        )
    return ok(f"bfloat16 works on {device.type}")


def _device(model: ModelConfig) -> torch.device:
    """Choose as `partsong.client.model.load.pick_device` does, without its libraries."""
    if model.device != "auto":
        return torch.device(model.device)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
