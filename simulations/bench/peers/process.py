"""Runs one contender of a benchmark in a process of its own, ours or a peer's, with the same threads."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import partsong

LIMIT_S = 3600.0
_PACKAGES = str(Path(partsong.__file__).parent.parent)
_SURROUNDINGS = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "PYTHONPATH": _PACKAGES,
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TRANSFORMERS_VERBOSITY": "error",
}
"""One thread a process for everybody; no contender sends anything anywhere."""


class NotMeasured(Exception):
    """A contender did not run here; the text says why."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Told:
    """What a process has printed, and how long all of it took."""

    whole_s: float
    """From the start of Python to its end."""
    cpu_s: float
    """Of the process and of those of its children that it has waited for: less depends on what else runs."""
    said: Mapping[str, Any]


def told(module: str, *, arguments: Sequence[object] = (), about: object = None, python: str | None = None) -> Told:
    """Run a module and read the JSON object on its last line.

    Args:
        module: below `partsong.simulations.bench`.
        arguments: of its command line.
        about: given to it as JSON on stdin.
        python: interpreter to run it with; None: this one.
    Raises:
        NotMeasured: what it needs is not installed there, it failed, or it took more than an hour.
    """
    command = [python or sys.executable, "-P", "-m", f"partsong.simulations.bench.{module}", *map(str, arguments)]
    start, cpu_s = time.perf_counter(), _children_s()
    try:
        done = subprocess.run(  # noqa: S603 - ourselves
            command,
            check=False,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            input=json.dumps(about),
            env={**os.environ, **_SURROUNDINGS},
        )
    except (OSError, subprocess.TimeoutExpired) as err:
        raise NotMeasured(f"{module} did not run: {type(err).__name__}") from err
    whole_s = time.perf_counter() - start
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no word of why"])[-1]
        raise NotMeasured(f"{module} ended with {done.returncode}: {last[:200]}")
    return Told(whole_s=whole_s, cpu_s=_children_s() - cpu_s, said=json.loads(done.stdout.splitlines()[-1]))


def _children_s() -> float:
    """CPU time of all processes that this one has waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def asked() -> Any:
    """Read what `told` was given `about`."""
    return json.loads(sys.stdin.read())
