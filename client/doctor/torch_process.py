"""Checks that need torch, each in a process of its own: a driver that crashes or hangs takes that process alone.

The settings go in through stdin as JSON, what was seen comes back on stdout, a line for each check. stderr is
dropped: a library may quote there what it was reading.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import Any, Literal

from partsong.common.build import build, to_tree
from partsong.common.config import DataConfig, ModelConfig
from partsong.common.doctor.finding import Seen, fail
from partsong.common.errors import PartsongError

Task = Literal["base", "gpu", "bfloat16", "records", "gradients", "reload"]
CHILD = (sys.executable, "-P", "-m", "partsong.client.doctor.torch_child")


def look(
    tasks: Sequence[Task], *, model: ModelConfig, data: DataConfig, limit_s: float, command: Sequence[str] = CHILD
) -> dict[str, Seen]:
    """Do checks in one new process, one after the other.

    Guarantees: a finding for each of `tasks`; those that were done before the process ended keep theirs.
    Args:
        tasks: which ones; loading torch takes seconds, so those that need the same things go together.
        model: of the site.
        data: of the site.
        limit_s: after this time the process is ended.
        command: what to start; the tasks are appended.
    """
    settings = json.dumps({"model": to_tree(model), "data": to_tree(data)})
    try:
        # The command is this program's own.
        done = subprocess.run(  # noqa: S603
            [*command, *tasks], input=settings.encode(), capture_output=True, timeout=limit_s, check=False
        )
        out, end = done.stdout, _ended(done.returncode)
    except subprocess.TimeoutExpired as late:
        out, end = late.stdout or b"", _late(limit_s)
    said: dict[str, Seen] = dict.fromkeys(tasks, end)
    return said | _seen(out, tasks)


def _seen(out: bytes, tasks: Sequence[Task]) -> dict[str, Seen]:
    """Read what the process said, a line for each check; what it did not finish saying is left out."""
    said: dict[str, Seen] = {}
    for task, line in zip(tasks, out.splitlines(), strict=False):
        try:
            said[task] = build(Seen, json.loads(line))
        except (ValueError, PartsongError):
            break
    return said


def _late(limit_s: float) -> Seen:
    return fail(
        f"no answer within {limit_s:g} s",
        cause="torch, the driver or the disk hangs, or this machine is far too slow for the model",
        remedy="run `nvidia-smi`, look at the disk, and run doctor again",
    )


def _ended(code: int) -> Seen:
    name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    found = f"the process with torch ended with {name}"
    if code == -signal.SIGKILL:
        return fail(
            found,
            cause="memory ran out, and the kernel ended it",
            remedy="give it more memory or a smaller base model",
        )
    return fail(
        found,
        cause="torch, the driver or a library crashed",
        remedy="run `python -c 'import torch; torch.ones(1, device=\"cuda\")'`, and reinstall what fails",
    )


def settings_of(text: str) -> tuple[ModelConfig, DataConfig]:
    """Read what the parent sent."""
    tree: dict[str, Any] = json.loads(text)
    return build(ModelConfig, tree["model"]), build(DataConfig, tree["data"])


def line_of(seen: Seen) -> bytes:
    """Give the line that the parent reads."""
    return json.dumps(to_tree(seen)).encode() + b"\n"


def keep_stdout() -> int:
    """Keep the real stdout for the answer, and give libraries that print the other stream."""
    answer = os.dup(1)
    os.dup2(2, 1)
    return answer
