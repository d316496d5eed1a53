"""What the simulator costs: `partsong bench simulation`.

S1 sites that return a vector and do nothing else, S3 an adapter against the bare training loop that takes the same
steps, S4 the same with differential privacy and the secure sum, S5 memory of registered sites. A rival that is not
installed gives null with the reason.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from partsong.client.training.train import train_round
from partsong.common.adapters.adapter import FloatVec
from partsong.common.config import SimulationConfig
from partsong.simulations.bench import flower_simulation
from partsong.simulations.bench.figures import Figure, in_turn, quiet, report
from partsong.simulations.bench.sim_sites import Measured, measured
from partsong.simulations.configure import compose_simulation
from partsong.simulations.federation import Federation, draft, fresh_adapter
from partsong.simulations.prepare import Prepared, prepare
from partsong.simulations.run_dir import RunDir
from partsong.simulations.sites import chance

PACKAGES = ("partsong", "torch", "transformers", "peft", "opacus", "flwr", "ray", "pfl")
ADAPTER = (
    "model=minilm", "model.threads=1", "data=icd10", "data.max_length=32", "partition.kind=iid", "sites=20",
    "rounds=5", "training.steps_per_round=4", "adapter.r=8", "adapter.target_modules=[query,value]",
    "evaluate_every=0",
)  # fmt: skip
PLAIN = ("privacy=none", "seed=1", "secure_sum=off")
PRIVATE = ("privacy=dp", "privacy.delta=1e-3", "privacy.epsilon=20", "secure_sum=full")
_BATCH = 8
_NEAR = 0.02


def run(
    *, repetitions: int = 3, adapter: Sequence[str] = ADAPTER, say: Callable[[str], None] = quiet
) -> dict[str, object]:
    """Measure everything and give the one object that `--json` prints.

    Args:
        repetitions: of the adapter's runs, interleaved; medians are reported.
        adapter: configuration of the adapter's run.
        say: told what is next.
    """
    torch.set_num_threads(1)
    stages: dict[str, Callable[[], Sequence[Figure]]] = {
        "rounds of idle sites": idle_sites,
        "an adapter, beside the bare loop": partial(against_bare_loop, adapter, repetitions=repetitions),
        "memory of registered sites": registered_sites,
    }
    return report("simulation", in_turn(stages, say=say), packages=PACKAGES)


def idle_sites(*, rounds: int = 20, shapes: Sequence[tuple[int, int]] = ((100, 10), (1000, 50))) -> list[Figure]:
    """Time rounds of sites that do nothing, S1.

    Args:
        rounds: of each run.
        shapes: registered sites and cohort.
    """
    figures = list[Figure]()
    for sites, cohort in shapes:
        found = measured(sites=sites, cohort=cohort, rounds=rounds)
        name, note = f"s1_round_{sites}_{cohort}", f"{rounds} rounds with the start: {found.whole_s:.1f} s"
        figures.append(Figure(name=name, value=round(found.round_ms, 2), unit="ms", note=note))
        if (sites, cohort) == shapes[0]:
            figures += over_flower(found, sites=sites, cohort=cohort, rounds=rounds)
    return [*figures, *_not_measured()]


def over_flower(ours: Measured, *, sites: int, cohort: int, rounds: int) -> list[Figure]:
    """Compare idle sites with those of Flower's own simulation, where Ray is installed."""
    whole, steady = "s1_end_to_end_speedup_over_flower", "s1_steady_speedup_over_flower"
    try:
        theirs = flower_simulation.measured(sites=sites, cohort=cohort, rounds=rounds)
    except flower_simulation.NotMeasured as err:
        return [
            Figure(name=name, value=None, unit="ratio", target=target, better="higher", reason=str(err))
            for name, target in ((whole, 10.0), (steady, 3.0))
        ]
    note = (
        f"{sites} sites, {cohort} a round, {rounds} rounds; Flower's: {theirs.whole_s:.1f} s, {theirs.round_ms:.0f} ms"
    )
    return [
        Figure(
            name=whole,
            value=round(theirs.whole_s / ours.whole_s, 2),
            unit="ratio",
            target=10.0,
            better="higher",
            note=note,
        ),
        Figure(
            name=steady,
            value=round(theirs.round_ms / ours.round_ms, 2),
            unit="ratio",
            target=3.0,
            better="higher",
            note="a round here also encodes, journals and pays for the query at every site",
        ),
    ]


def _not_measured() -> list[Figure]:
    """Name the rivals that this benchmark has no run of."""
    return [
        Figure(
            name="s3_end_to_end_speedup_over_flower",
            value=None,
            unit="ratio",
            target=1.5,
            better="higher",
            reason="there is no run of Flower's simulation with the same adapter and the same samples here",
        ),
        Figure(
            name="s2_speedup_over_pfl",
            value=None,
            unit="ratio",
            target=1.0,
            better="higher",
            reason="its task trains a whole CNN; sites here train adapters",
        ),
    ]


def against_bare_loop(adapter: Sequence[str] = ADAPTER, *, repetitions: int = 3) -> list[Figure]:
    """Compare a federation with the bare loop, S3, and with itself under privacy and the secure sum, S4."""
    with tempfile.TemporaryDirectory() as folder:
        prepared = _prepared(adapter, PLAIN, folder)
        private = prepare(_config(adapter, PRIVATE, prepared, folder), tables=prepared.tables)
        times: dict[str, list[float]] = {"bare": [], "plain": [], "private": []}
        for _ in range(repetitions):
            bare_P = _clocked(times["bare"], lambda: bare_loop(prepared))
            plain_P = _clocked(times["plain"], lambda: _federated(prepared))
            _clocked(times["private"], lambda: _federated(private))
    start_P, _ = fresh_adapter(prepared)
    off = float(np.linalg.norm(plain_P - bare_P) / np.linalg.norm(bare_P - start_P))
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
        Figure(name="s4_over_s3_time", value=round(medians["private"] / medians["plain"], 3), unit="ratio", target=1.3),
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


def bare_loop(prepared: Prepared) -> FloatVec:
    """Train as the federation does, without one: the same steps on the same samples, and the mean of the updates."""
    names = tuple(sorted(prepared.sites))
    plan, _ = draft(prepared, names, run="bare")
    start_P, frozen_F = fresh_adapter(prepared)
    state_P = start_P.astype(np.float64)
    for number in range(1, plan.rounds + 1):
        total_P = np.zeros_like(state_P)
        for name in names:
            prepared.host.put(frozen_F, trained=False)
            prepared.host.put(state_P.astype(np.float32))
            total_P += train_round(
                prepared.host,
                prepared.sites[name].records,
                sampling_rate=plan.sampling_rate,
                training=plan.training,
                dp=None,
                randomness=chance(name, plan, number).samples,
            ).update_P
        state_P += total_P / len(names)
    return state_P.astype(np.float32)


def _federated(prepared: Prepared) -> FloatVec:
    return Federation(prepared, RunDir.create(prepared.config, marks=())).run().trained_P


def _prepared(adapter: Sequence[str], mode: Sequence[str], folder: str) -> Prepared:
    first = prepare(compose_simulation([*adapter, *mode, f"run_dir={folder}"]))
    return first.with_config(_config(adapter, mode, first, folder))


def _config(adapter: Sequence[str], mode: Sequence[str], prepared: Prepared, folder: str) -> SimulationConfig:
    records = min(len(site.records) for site in prepared.sites.values())
    rate = f"privacy.sampling_rate={min(1.0, _BATCH / records):.4f}"
    return compose_simulation([*adapter, *mode, rate, f"run_dir={Path(folder)}"])


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
