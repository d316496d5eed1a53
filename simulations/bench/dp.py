"""What privacy costs: time and peak memory of a private step against PEFT without privacy.

Every repetition runs one logical batch of every engine, so that a busy machine is busy for all. Times are CPU times
of this process with one thread (device times on a GPU); peak memory is that of a process of its own for each engine,
from the moment that the model is built, and the median of several: one alone is a few per cent off, by how the
allocator happened to cut its pages.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, get_args

import torch

from partsong.simulations.bench.dp_engines import (
    ALL_R16,
    QV_R8,
    EngineName,
    Shape,
    attached,
    losses,
    make_batch,
    make_model,
)
from partsong.simulations.bench.figures import Figure, report
from partsong.simulations.bench.stages import Moment, Stage, in_turn, quiet

ENGINES: tuple[EngineName, ...] = get_args(EngineName)
SHAPES = {shape.name: shape for shape in (QV_R8, ALL_R16)}
PACKAGES = ("torch", "transformers", "peft", "opacus")
NAMES = {"plain": "plain", "flat": "flat", "books": "bk", "hooks": "hooks", "ghost": "ghost"}
PROCESS = Path("/proc/self")

TARGETS = {
    "flat_time_ratio_qv_r8": 1.05,
    "flat_time_ratio_all_r16": 1.05,
    "bk_memory_ratio_all_r16": 1.02,
}
"""Of the issue that asked for the engine; other figures are there for comparison."""


def run(
    *,
    repetitions: int = 5,
    shapes: Sequence[Shape] = (QV_R8, ALL_R16),
    device: str = "cpu",
    tell: Callable[[Moment], None] = quiet,
) -> dict[str, Any]:
    """Measure all shapes and give the report of `--json`.

    Args:
        repetitions: of the interleaved times and of the processes whose memory is read; medians are reported.
        shapes: what to measure.
        device: cpu or cuda.
        tell: told what is next.
    """
    stages = list[Stage]()
    for shape in shapes:
        times = partial(_times, shape, repetitions=repetitions, device=device)
        stages.append(Stage(what=f"time of {shape.name}", usual_s=3.5 * shape.tokens, measure=times))
        if shape.name in SHAPES:
            memory = partial(_memory, shape, repetitions=repetitions, device=device)
            stages.append(Stage(what=f"memory of {shape.name}", usual_s=5.0 * shape.tokens, measure=memory))
    return report("dp", in_turn(stages, tell=tell), packages=PACKAGES)


def _times(shape: Shape, *, repetitions: int, device: str) -> list[Figure]:
    times = times_of(shape, repetitions=repetitions, device=device)
    medians = {engine: statistics.median(times[engine]) for engine in ENGINES}
    plain = Figure(name=f"plain_time_{shape.name}", value=medians["plain"], unit="s")
    return [plain, *_ratios("time", shape, medians)]


def times_of(shape: Shape, *, repetitions: int, device: str) -> dict[EngineName, list[float]]:
    """Time logical batches of every engine in turn [s]; a step right after attaching warms up and is not counted."""
    torch.set_num_threads(1)
    model, tokens_BT = make_model(shape, device=device), make_batch(shape, device=device)
    times: dict[EngineName, list[float]] = {engine: [] for engine in ENGINES}
    for _ in range(repetitions):
        for engine in ENGINES:
            with attached(engine, model, records=shape.records) as one_pass:
                one_pass(losses(model, tokens_BT), True)
                start = _now(device)
                for index in range(shape.passes):
                    one_pass(losses(model, tokens_BT), index == shape.passes - 1)
                times[engine].append(_now(device) - start)
    return times


def peak_bytes(engine: EngineName, shape: Shape, *, device: str) -> int:
    """Run two steps of one engine and give the peak memory of this process, or of the device, since then.

    Raises:
        OSError: on a CPU, where the system has no /proc to read the peak from.
    """
    torch.set_num_threads(1)
    model, tokens_BT = make_model(shape, device=device), make_batch(shape, device=device)
    if device == "cpu":
        (PROCESS / "clear_refs").write_text("5")  # the peak begins anew: building the model takes more than a step
    with attached(engine, model, records=shape.records) as one_pass:
        for _ in range(2):
            one_pass(losses(model, tokens_BT), True)
    if device != "cpu":
        return torch.cuda.max_memory_allocated()
    (peak,) = (line for line in (PROCESS / "status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(peak.split()[1]) * 1024


def _memory(shape: Shape, *, repetitions: int, device: str) -> list[Figure]:
    """Compare peaks, each in a process of its own, one engine after the other."""
    peaks: dict[EngineName, list[float]] = {engine: [] for engine in ENGINES}
    for _ in range(repetitions):
        for engine in ENGINES:
            command = [sys.executable, "-P", "-m", "partsong.simulations.bench.dp", engine, shape.name, device]
            done = subprocess.run(command, check=False, capture_output=True, text=True)  # noqa: S603 - ourselves
            if done.returncode:
                name = f"{NAMES[engine]}_memory_ratio_{shape.name}"
                return [Figure(name=name, value=None, unit="ratio", reason="no peak memory could be read here")]
            peaks[engine].append(float(done.stdout))
    medians = {engine: statistics.median(peaks[engine]) for engine in ENGINES}
    plain = Figure(name=f"plain_memory_{shape.name}", value=medians["plain"], unit="B")
    return [plain, *_ratios("memory", shape, medians)]


def _ratios(what: str, shape: Shape, values: Mapping[EngineName, float]) -> list[Figure]:
    names = {engine: f"{NAMES[engine]}_{what}_ratio_{shape.name}" for engine in ENGINES}
    return [
        Figure(name=names[e], value=round(values[e] / values["plain"], 4), unit="ratio", target=TARGETS.get(names[e]))
        for e in ENGINES
        if e != "plain"
    ]


def _now(device: str) -> float:
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def main(arguments: Sequence[str]) -> None:
    """Print the report, or with `ENGINE SHAPE DEVICE` the peak memory of one engine in bytes."""
    if arguments:
        engine, shape, device = arguments
        print(peak_bytes(next(e for e in ENGINES if e == engine), SHAPES[shape], device=device))
    else:
        print(json.dumps(run(), indent=2))


if __name__ == "__main__":
    main(sys.argv[1:])
