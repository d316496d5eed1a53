"""Checks that need torch, each in a process of its own: a driver that crashes or hangs takes that process alone.

The settings go in through stdin as JSON, what was seen comes back as the last line of stdout. stderr is dropped: a
library may quote there what it was reading.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from partsong.common.build import build, to_tree
from partsong.common.config import DataConfig, ModelConfig
from partsong.common.doctor.finding import Seen, fail
from partsong.common.errors import PartsongError

Task = Literal["base", "gpu", "bfloat16", "records", "gradients", "reload"]
CHILD = (sys.executable, "-P", "-m", "partsong.client.doctor.torch_child")


def look(task: Task, *, model: ModelConfig, data: DataConfig, limit_s: float, command: Sequence[str] = CHILD) -> Seen:
    """Do a check in a new process.

    Args:
        task: which one.
        model: of the site.
        data: of the site.
        limit_s: after this time the process is ended.
        command: what to start; the task is appended.
    """
    settings = json.dumps({"model": to_tree(model), "data": to_tree(data)})
    try:
        # The command is this program's own.
        done = subprocess.run(  # noqa: S603
            [*command, task], input=settings.encode(), capture_output=True, timeout=limit_s, check=False
        )
    except subprocess.TimeoutExpired:
        return fail(
            f"no answer within {limit_s:g} s",
            cause="torch, the driver or the disk hangs, or this machine is far too slow for the model",
            remedy="run `nvidia-smi`, look at the disk, and run doctor again",
        )
    return _seen(done.stdout, done.returncode)


def _seen(out: bytes, code: int) -> Seen:
    lines = out.splitlines()
    try:
        return build(Seen, json.loads(lines[-1]))
    except (IndexError, ValueError, PartsongError):
        pass
    name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    killed = code == -signal.SIGKILL
    return fail(
        f"the process with torch ended with {name}",
        cause="memory ran out, and the kernel ended it" if killed else "torch, the driver or a library crashed",
        remedy="give it more memory or a smaller base model"
        if killed
        else "run `python -c 'import torch; torch.ones(1, device=\"cuda\")'`, and reinstall what fails",
    )


def in_child(task: str, text: str, *, checks: Mapping[str, Callable[[ModelConfig, DataConfig], Seen]]) -> str:
    """Do the check that was asked for, and give the line that the parent reads."""
    tree: dict[str, Any] = json.loads(text)
    seen = checks[task](build(ModelConfig, tree["model"]), build(DataConfig, tree["data"]))
    return json.dumps(to_tree(seen))


def keep_stdout() -> int:
    """Keep the real stdout for the answer, and give libraries that print the other stream."""
    answer = os.dup(1)
    os.dup2(2, 1)
    return answer
