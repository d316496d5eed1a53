"""The process that `torch_process.look` starts: the checks it names, with torch, and its end."""

from __future__ import annotations

import functools
import os
import sys
import warnings
from pathlib import Path
from typing import Any

from partsong.client.doctor.torch_process import keep_stdout, line_of, settings_of
from partsong.common.config import DataConfig, ModelConfig
from partsong.common.doctor.finding import Seen, guarded

# Each check imports what it needs: the check of the GPU must not fail over transformers.
# ruff: noqa: PLC0415


@functools.cache
def _host(model: ModelConfig, labels: tuple[str, ...]) -> Any:
    from partsong.client.doctor.gradients import load_for_check

    return load_for_check(model, labels)


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
    from partsong.client.doctor.gradients import check_gradients

    return check_gradients(_host(model, data.labels), classes=len(data.labels))


def _reload(model: ModelConfig, data: DataConfig) -> Seen:
    from partsong.client.doctor.reload import check_reload

    return check_reload(_host(model, data.labels), classes=len(data.labels))


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
    model, data = settings_of(sys.stdin.read())
    for task in sys.argv[1:]:
        os.write(answer, line_of(guarded(functools.partial(CHECKS[task], model, data))))


if __name__ == "__main__":
    main()
