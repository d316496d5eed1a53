"""The process that `torch_process.look` starts: one check, with torch, and its end."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path

from partsong.client.doctor.torch_process import in_child, keep_stdout
from partsong.common.config import DataConfig, ModelConfig
from partsong.common.doctor.finding import Seen, guarded

# Each check imports what it needs: the check of the GPU must not fail over transformers.
# ruff: noqa: PLC0415


def _base(model: ModelConfig, _data: DataConfig) -> Seen:
    from partsong.client.doctor.base import check_base

    return check_base(model)


def _gpu(model: ModelConfig, _data: DataConfig) -> Seen:
    from partsong.client.doctor.accelerator import check_gpu

    return check_gpu(model, has_device=Path("/dev/nvidiactl").exists())


def _bfloat16(model: ModelConfig, _data: DataConfig) -> Seen:
    from partsong.client.doctor.accelerator import check_bfloat16

    return check_bfloat16(model)


def _records(model: ModelConfig, data: DataConfig) -> Seen:
    from partsong.client.doctor.records import check_records

    return check_records(model, data)


def _gradients(model: ModelConfig, data: DataConfig) -> Seen:
    from partsong.client.doctor.gradients import check_gradients, load_for_check

    return check_gradients(load_for_check(model, data.labels), classes=len(data.labels))


def _reload(model: ModelConfig, data: DataConfig) -> Seen:
    from partsong.client.doctor.gradients import load_for_check
    from partsong.client.doctor.reload import check_reload

    return check_reload(load_for_check(model, data.labels), classes=len(data.labels))


CHECKS = {
    "base": _base,
    "gpu": _gpu,
    "bfloat16": _bfloat16,
    "records": _records,
    "gradients": _gradients,
    "reload": _reload,
}


def main() -> None:
    """Answer on the real stdout."""
    answer = keep_stdout()
    warnings.simplefilter("ignore")
    task = sys.argv[1]
    checks = {task: lambda model, data: guarded(lambda: CHECKS[task](model, data))}
    os.write(answer, in_child(task, sys.stdin.read(), checks=checks).encode())


if __name__ == "__main__":
    main()
