"""What the simulator costs: `partsong bench simulation`.

S1 sites that return a vector and do nothing else, S2 a whole network trained on pictures, S3 an adapter against the
bare training loop that takes the same steps, and with sites that train together, S4 the same with differential privacy
and the secure sum, S5 memory of registered sites. Rivals run in an interpreter that may have more packages than this
one; a rival that is not installed there gives null with the reason. Everything runs with one thread a process.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch

from partsong.common.adapters.adapter import FloatVec
from partsong.simulations.bench.adapter_task import (
    ADAPTER,
    PLAIN,
    PRIVATE,
    bare_loop,
    config_of,
    federated,
    plan_of,
    prepared,
)
from partsong.simulations.bench.figures import Figure, report
from partsong.simulations.bench.peers.process import NotMeasured, told
from partsong.simulations.bench.rivals import adapter_over_flower, idle_over_flower, images_over_pfl
from partsong.simulations.bench.sim_sites import Measured, measured
from partsong.simulations.bench.stages import Moment, Stage, in_turn, quiet
from partsong.simulations.federation import fresh_adapter
from partsong.simulations.prepare import prepare

PACKAGES = ("partsong", "torch", "transformers", "peft", "opacus", "flwr", "ray", "pfl")
_NEAR = 0.02
_STACKED = 10
"""Sites that train together, of twenty."""


def run(
    *,
    repetitions: int = 3,
    adapter: Sequence[str] = ADAPTER,
    peers_python: str | None = None,
    tell: Callable[[Moment], None] = quiet,
) -> dict[str, object]:
    """Measure everything and give the one object that `--json` prints.

    Args:
        repetitions: of the adapter's runs, interleaved; medians are reported.
        adapter: configuration of the adapter's run.
        peers_python: interpreter that has Flower's simulation and pfl; None: this one.
        tell: told what is next.
    """
    torch.set_num_threads(1)
    stages = [
        Stage(what="rounds of idle sites", usual_s=60, measure=partial(idle_sites, peers_python=peers_python)),
        Stage(what="images, beside pfl", usual_s=280, measure=partial(images_over_pfl, python=peers_python)),
        Stage(
            what="an adapter, beside the bare loop",
            usual_s=300,
            measure=partial(against_bare_loop, adapter, repetitions=repetitions),
        ),
        Stage(
            what="an adapter, beside Flower's simulation",
            usual_s=220,
            measure=partial(adapter_over_flower, adapter, python=peers_python),
        ),
        Stage(what="memory of registered sites", usual_s=40, measure=registered_sites),
    ]
    measured = report("simulation", in_turn(stages, tell=tell), packages=PACKAGES) | {"peers": peers(peers_python)}
    # Without the option there is nobody to compare with; the path itself is of one machine only.
    named = {} if peers_python is None else {"command": "partsong bench simulation --peers-python PATH --json"}
    return measured | named


def peers(python: str | None) -> object:
    """Name the packages of the rivals' interpreter."""
    try:
        return told("peers.versions", python=python).said
    except NotMeasured as err:
        return str(err)


def idle_sites(
    *,
    rounds: int = 20,
    shapes: Sequence[tuple[int, int]] = ((100, 10), (1000, 50)),
    peers_python: str | None = None,
) -> list[Figure]:
    """Time rounds of sites that do nothing, S1.

    Args:
        rounds: of each run.
        shapes: registered sites and cohort; the first one's ratios have the plain names.
        peers_python: interpreter that has Flower's simulation; None: this one.
    """
    figures = list[Figure]()
    for sites, cohort in shapes:
        found = measured(sites=sites, cohort=cohort, rounds=rounds)
        name, note = f"s1_round_{sites}_{cohort}", f"{rounds} rounds with the start: {found.whole_s:.1f} s"
        figures.append(Figure(name=name, value=round(found.round_ms, 2), unit="ms", note=note))
        tail = "" if (sites, cohort) == shapes[0] else f"_{sites}_{cohort}"
        figures += idle_over_flower(found, sites=sites, cohort=cohort, rounds=rounds, python=peers_python, tail=tail)
    return figures


def against_bare_loop(adapter: Sequence[str] = ADAPTER, *, repetitions: int = 3) -> list[Figure]:
    """Compare a federation with the bare loop, S3, with itself with sites that train together, and with itself under
    privacy and the secure sum, S4.

    Args:
        adapter: configuration of the run.
        repetitions: interleaved; medians are compared.
    """
    with tempfile.TemporaryDirectory() as folder:
        task = prepared(adapter, PLAIN, folder)
        private = prepare(config_of(adapter, PRIVATE, task, folder), tables=task.tables)
        stacked = task.with_config(config_of(adapter, (*PLAIN, f"engine.stacked={_STACKED}"), task, folder))
        works: dict[str, Callable[[], FloatVec]] = {
            "bare": lambda: bare_loop(task),
            "plain": lambda: federated(task),
            "stacked": lambda: federated(stacked),
            "private": lambda: federated(private),
        }
        ends, times = dict[str, FloatVec](), {name: list[float]() for name in works}
        for _ in range(repetitions):
            for name, work in works.items():
                ends[name] = _clocked(times[name], work)
        rate, private_rate = plan_of(task).sampling_rate, plan_of(private).sampling_rate
    start_P, _ = fresh_adapter(task)
    learned = np.linalg.norm(ends["bare"] - start_P)
    off, stacked_off = (float(np.linalg.norm(ends[name] - ends["bare"]) / learned) for name in ("plain", "stacked"))
    medians = {name: statistics.median(values) for name, values in times.items()}
    note = f"bare loop {medians['bare']:.1f} s CPU; the weights differ by {off:.1e} of the change"
    same = off <= _NEAR
    return [
        Figure(
            name="s3_over_bare_loop",
            value=round(medians["plain"] / medians["bare"], 3) if same else None,
            unit="ratio",
            target=1.1,
            reason=None if same else "the weights are not those of the bare loop",
            note=note,
        ),
        Figure(
            name="s3_stacked_over_unstacked",
            value=round(medians["plain"] / medians["stacked"], 3) if stacked_off <= _NEAR else None,
            unit="ratio",
            better="higher",
            reason=None if stacked_off <= _NEAR else "the weights are not those of the bare loop",
            note=f"{_STACKED} sites train together, {medians['stacked']:.1f} s CPU; the weights differ from the bare "
            f"loop's by {stacked_off:.1e} of the change",
        ),
        Figure(
            name="s4_over_s3_time",
            value=round(medians["private"] / medians["plain"], 3),
            unit="ratio",
            target=1.3,
            note=f"samples of {rate:.4g} and {private_rate:.4g} of the records",
        ),
    ]


def registered_sites(*, few: int = 1000, many: int = 10_000, cohort: int = 20, rounds: int = 5) -> list[Figure]:
    """Compare the memory of processes with few and many registered sites, S5."""
    found = [measured(sites=sites, cohort=cohort, rounds=rounds) for sites in (few, many)]
    name = "s5_rss_mb_per_1000_sites"
    if any(m.resident_mb is None for m in found):
        return [Figure(name=name, value=None, unit="MB", target=1.0, reason="no memory could be read here")]
    return [
        Figure(
            name=name,
            value=round(_growth_mb(found) / ((many - few) / 1000), 3),
            unit="MB",
            target=1.0,
            note=", ".join(f"{n} sites: {m.resident_mb:.0f} MB" for n, m in zip((few, many), found, strict=True)),
        )
    ]


def _clocked(times: list[float], work: Callable[[], FloatVec]) -> FloatVec:
    """Do something and note its CPU time [s]."""
    start = time.process_time()
    value = work()
    times.append(time.process_time() - start)
    return value


def _growth_mb(found: Sequence[Measured]) -> float:
    few, many = (m.resident_mb or 0.0 for m in found)
    return many - few


if __name__ == "__main__":
    print(json.dumps(run(), indent=2))
