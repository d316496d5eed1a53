"""What the coordinator does with a round's sum: one step of the server, against what memory can move.

A step reads the adapter and the mean and writes a new adapter, 24 bytes for a parameter in float64. The same bytes are
moved by one `np.add` of two arrays into a third that exists already; both are timed in turn, so that a busy machine is
busy for both, and the best of each is compared: what else runs only ever makes them slower.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from partsong.common.adapters.methods import ServerState, server_step
from partsong.common.config import ServerOptimizerConfig
from partsong.simulations.bench.figures import Figure, report
from partsong.simulations.bench.stages import Moment, Stage, in_turn, quiet

SIZES = {"1m": 1_000_000, "10m": 10_000_000, "200m": 200_000_000}
BYTES = 24
"""For a parameter: two float64 read, one written."""
_PER_S = 1e7
"""Parameters that are measured in a second."""


def run(*, repetitions: int = 9, most: int = 200_000_000, tell: Callable[[Moment], None] = quiet) -> dict[str, Any]:
    """Measure all sizes and give the report of `--json`. The largest takes 4.8 GB.

    Args:
        repetitions: of each measurement.
        most: parameters; larger sizes are left out, and said to be.
        tell: told which size is next.
    """
    stages = [
        Stage(
            what=f"{parameters:,} parameters",
            usual_s=parameters / _PER_S,
            measure=partial(_figures, name, parameters, repetitions=repetitions, most=most),
        )
        for name, parameters in SIZES.items()
    ]
    return report("aggregate", in_turn(stages, tell=tell), packages=("numpy",))


def _figures(name: str, parameters: int, *, repetitions: int, most: int) -> list[Figure]:
    if parameters > most:
        return [_left_out(f"server_step_{name}", "s"), _left_out(f"fraction_of_memory_bandwidth_{name}", "1")]
    step_s, add_s = _measured(parameters, repetitions=repetitions)
    add_gb, step_gb = (BYTES * parameters / seconds / 1e9 for seconds in (add_s, step_s))
    note = f"{add_gb:.1f} GB/s by np.add, {step_gb:.1f} GB/s by a step"
    return [
        Figure(name=f"server_step_{name}", value=step_s, unit="s"),
        Figure(name=f"fraction_of_memory_bandwidth_{name}", value=add_s / step_s, unit="1", note=note),
    ]


def _left_out(name: str, unit: str) -> Figure:
    return Figure(name=name, value=None, unit=unit, reason="larger than this run was asked to measure")


def _measured(parameters: int, *, repetitions: int) -> tuple[float, float]:
    """Give the least seconds of a server step and of an addition of the same bytes."""
    adapter_P, mean_P = np.full(parameters, 0.5), np.full(parameters, 1e-3)
    state, config = ServerState(adapter_P=adapter_P), ServerOptimizerConfig()
    steps, adds = [], []
    for _ in range(repetitions):
        steps.append(_seconds(lambda: server_step(state, mean_P, config)))
        # After the step, whose result is gone by now: both together would not fit into 6 GB.
        out_P = np.full(parameters, 0.0)  # written to, so that its pages are there
        adds.append(_seconds(lambda out_P=out_P: np.add(adapter_P, mean_P, out=out_P)))  # type: ignore[misc]
        del out_P
    return min(steps), min(adds)


def _seconds(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun
