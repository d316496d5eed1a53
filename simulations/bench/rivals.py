"""Ratios to other simulators that do the same work; the equality of what both end with is checked."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from partsong.common.adapters.adapter import FloatVec
from partsong.simulations.bench import cnn_task
from partsong.simulations.bench.adapter_task import PLAIN, prepared
from partsong.simulations.bench.figures import Figure
from partsong.simulations.bench.peers.process import NotMeasured, Told, told
from partsong.simulations.bench.sim_sites import Measured
from partsong.simulations.federation import fresh_adapter

NEAR = 0.02
"""Largest difference of two ends, as a part of what was learned: words are rounded."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Aim:
    """A ratio that is asked for."""

    name: str
    target: float


def idle_over_flower(
    ours: Measured, *, sites: int, cohort: int, rounds: int, python: str | None, tail: str = ""
) -> list[Figure]:
    """Compare idle sites with those of Flower's own simulation, S1.

    Args:
        ours: of this package.
        sites: registered.
        cohort: sites of a round.
        rounds: two or more.
        python: interpreter that has Flower's simulation; None: this one.
        tail: of the figures' names.
    """
    whole = Aim(name=f"s1_end_to_end_speedup_over_flower{tail}", target=10.0)
    steady = Aim(name=f"s1_steady_speedup_over_flower{tail}", target=3.0)

    def compared() -> list[Figure]:
        theirs = told("peers.flower_idle", arguments=(sites, cohort, rounds), python=python)
        shape = f"{sites} sites, {cohort} a round, {rounds} rounds"
        ours_took = f"{ours.whole_s:.1f} s ({ours.cpu_s:.1f} s of CPU) and {ours.round_ms:.0f} ms a round"
        times = f"{ours_took}; Flower's {_times(theirs)}"
        return [
            _ratio(whole, theirs.whole_s / ours.whole_s, note=f"{shape}: {times}"),
            _ratio(
                steady,
                theirs.said["round_ms"] / ours.round_ms,
                note="a round here also encodes, journals and pays for the query at every site",
            ),
        ]

    return _or_reason(compared, whole, steady)


def images_over_pfl(
    *, users: int = 1000, cohort: int = 50, rounds: int = 30, python: str | None = None
) -> list[Figure]:
    """Compare a whole network trained by many users with pfl-research, S2."""
    aim = Aim(name="s2_speedup_over_pfl", target=1.0)

    def compared() -> list[Figure]:
        with tempfile.TemporaryDirectory() as folder:
            ends = [Path(folder) / "ours.npy", Path(folder) / "theirs.npy"]
            ours = told("cnn_sites", arguments=(users, cohort, rounds, ends[0]))
            theirs = told("peers.pfl_cnn", arguments=(ends[1],), about=ours.said["asked"], python=python)
            off = _difference(ends, cnn_task.weights(cnn_task.network()))
        off_by = f"after a round the weights differ by {off:.1e} of the change"
        note = f"{_times(ours)}; pfl's {_times(theirs)}; {off_by}"
        return [_ratio(aim, theirs.said["round_ms"] / ours.said["round_ms"], note=note, off=off)]

    return _or_reason(compared, aim)


def adapter_over_flower(
    adapter: Sequence[str], *, workers: int = 2, repeats: int = 3, python: str | None = None
) -> list[Figure]:
    """Compare an adapter's training from the start of Python to the result with Flower's simulation, S3.

    Args:
        adapter: configuration of the run.
        workers: processes that play sites here, as many as Ray has actors: the cores of the machine.
        repeats: runs of each, in turn; the medians are compared.
        python: interpreter that has Flower's simulation; None: this one.
    """
    aim = Aim(name="s3_end_to_end_speedup_over_flower", target=1.5)

    def compared() -> list[Figure]:
        with tempfile.TemporaryDirectory() as folder:
            task = prepared(adapter, PLAIN, folder)
            rate = f"privacy.sampling_rate={task.config.privacy.sampling_rate}"
            asked = [*adapter, *PLAIN, rate, f"run_dir={folder}"]
            ends = [Path(folder) / "ours.npy", Path(folder) / "theirs.npy"]
            both = [
                (
                    told("adapter_sites", arguments=(ends[0],), about=[*asked, f"engine.workers={workers}"]),
                    told("peers.flower_adapter", arguments=(ends[1],), about=asked, python=python),
                )
                for _ in range(repeats)
            ]
            off = _difference(ends, fresh_adapter(task)[0])
        ours, theirs = (_median(runs) for runs in zip(*both, strict=True))
        note = f"{_times(ours)}; Flower's {_times(theirs)}; the weights differ by {off:.1e} of the change"
        return [_ratio(aim, theirs.whole_s / ours.whole_s, note=note, off=off)]

    return _or_reason(compared, aim)


def _median(found: Sequence[Told]) -> Told:
    """Give the run of the median time; of an even number the longer of the two."""
    return sorted(found, key=lambda one: one.whole_s)[len(found) // 2]


def _difference(ends: Sequence[Path], start_P: FloatVec) -> float:
    """Length of the difference of two ends over that of the change which the second one made."""
    ours_P, theirs_P = (np.load(file) for file in ends)
    return float(np.linalg.norm(ours_P - theirs_P) / np.linalg.norm(theirs_P - start_P))


def _times(found: Told) -> str:
    return f"{found.whole_s:.1f} s ({found.cpu_s:.1f} s of CPU) and {found.said['round_ms']:.0f} ms a round"


def _ratio(aim: Aim, value: float, *, note: str, off: float = 0.0) -> Figure:
    """Give a ratio, unless the two ends differ: then there is nothing to compare."""
    same = off <= NEAR
    return Figure(
        name=aim.name,
        value=round(value, 2) if same else None,
        unit="ratio",
        target=aim.target,
        better="higher",
        reason=None if same else "the two did not end with the same weights",
        note=note,
    )


def _or_reason(compared: Callable[[], list[Figure]], *aims: Aim) -> list[Figure]:
    """Compare, or say why that is not possible here."""
    try:
        return compared()
    except NotMeasured as err:
        return [
            Figure(name=aim.name, value=None, unit="ratio", target=aim.target, better="higher", reason=str(err))
            for aim in aims
        ]
