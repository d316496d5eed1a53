"""Playing one cell: the simulator's run, or runs, and what the held-out records make of them."""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from partsong.client.data.encode import Record, fingerprint
from partsong.common.config import SimulationConfig
from partsong.common.errors import PartsongError, TryAgain
from partsong.server.run import Result
from partsong.simulations.federation import Federation, fresh_adapter, score_adapter
from partsong.simulations.prepare import Prepared, prepare
from partsong.simulations.run_dir import RunDir
from partsong.simulations.sites import rank_of
from partsong.simulations.studies.corpus import POOLED, Corpus, Division, divide, pooled
from partsong.simulations.studies.declare import Cell
from partsong.simulations.studies.feature_shelf import FeatureShelf
from partsong.simulations.studies.features import fit
from partsong.simulations.studies.outcome import Lost, Outcome, Point, Scored, scored

_PENALTY = 1.0
"""Of the linear classifier, as scikit-learn's default."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bench:
    """What all cells of a study share."""

    corpora: dict[str, Corpus]
    scratch: Path
    """Runs live here while they are played."""
    shelf: FeatureShelf


def play(cell: Cell, config: SimulationConfig, bench: Bench) -> Outcome:
    """Play a cell from its start to its scores.

    Guarantees:
        - what an earlier, killed attempt has left is not used;
        - a run that diverges or has no sum is an outcome, not an error.
    Raises:
        InputError: the configuration or the model is wrong.
        TryAgain: the disk is full.
    """
    started = time.monotonic()
    corpus = bench.corpora[cell.split.corpus]
    division = divide(
        corpus,
        config.partition,
        sites=cell.split.sites,
        part="test" if cell.swept_rate is None else "validation",
        limit=cell.split.test_limit,
    )
    players = {
        "federated": _federated,
        "pooled": _pooled,
        "local": _local,
        "frozen_pooled": _frozen,
        "frozen_local": _frozen,
    }
    found = players[cell.arm](cell, config, bench, division)
    return dataclasses.replace(found, rate=_rate(cell, config), seconds=round(time.monotonic() - started, 1))


def _rate(cell: Cell, config: SimulationConfig) -> float | None:
    """Give the rate of whoever takes the steps: in lockstep that is the coordinator."""
    if cell.method is None:
        return None
    return config.optimizer.learning_rate if cell.lockstep else config.training.learning_rate


def _federated(cell: Cell, config: SimulationConfig, bench: Bench, division: Division) -> Outcome:
    return _one_model(prepare(config, tables=division.tables), cell, bench, division)


def _pooled(cell: Cell, config: SimulationConfig, bench: Bench, division: Division) -> Outcome:
    tables = pooled(division, bench.corpora[cell.split.corpus])
    return _one_model(prepare(config, tables=tables), cell, bench, division)


def _local(cell: Cell, config: SimulationConfig, bench: Bench, division: Division) -> Outcome:
    prepared = prepare(config, tables=division.tables)
    each: dict[str, Scored] = {}
    for site in sorted(prepared.sites):
        try:
            result = _run(prepared, cell, bench, sites=(site,))
        except TryAgain:
            raise
        except PartsongError as err:
            return Outcome(accuracy=None, macro_recall=None, failed=f"{site}: {err}")
        each[site] = scored(score_adapter(prepared, result.trained_P, result.frozen_F).hit_N, division)
    return _of_sites(each, visits=_visits(config, division))


def _one_model(prepared: Prepared, cell: Cell, bench: Bench, division: Division) -> Outcome:
    try:
        result = _run(prepared, cell, bench, sites=None)
    except TryAgain:
        raise
    except PartsongError as err:
        return Outcome(accuracy=None, macro_recall=None, failed=str(err))
    found = scored(score_adapter(prepared, result.trained_P, result.frozen_F).hit_N, division)
    curve = _curve(result.history)
    federated = cell.arm == "federated"
    return Outcome(
        accuracy=found.accuracy,
        macro_recall=found.macro_recall,
        own=found.own,
        visits=_visits(prepared.config, division),
        bytes_per_site=_bytes(result.history) if federated else None,
        bytes_by_rank=_bytes_by_rank(prepared, cell, result.history) if federated else {},
        lost=_lost(result.history),
        epsilon=result.epsilon,
        curve=curve if federated else (),
    )


def _frozen(cell: Cell, config: SimulationConfig, bench: Bench, division: Division) -> Outcome:
    """Fit the linear classifier on frozen features, of all records or of each site's."""
    corpus = bench.corpora[cell.split.corpus]
    sites = division.tables.sites | pooled(division, corpus).sites
    prepared = prepare(config, tables=dataclasses.replace(division.tables, sites=sites))
    start_P, frozen_F = fresh_adapter(prepared)
    prepared.host.put(frozen_F, trained=False)
    prepared.host.put(start_P)
    if prepared.held_out is None:
        raise AssertionError("a division has held-out records")
    test, everything = prepared.held_out.records, prepared.sites.pop(POOLED).records
    test_ND, label_N = bench.shelf.features(prepared.host, test), _labels(test)
    row_of = {fingerprint([record]): row for row, record in enumerate(everything)}
    all_ND = bench.shelf.features(prepared.host, everything)
    held = {site: encoded.records for site, encoded in sorted(prepared.sites.items())}
    each: dict[str, Scored] = {}
    for site, records in (held if cell.arm == "frozen_local" else {POOLED: everything}).items():
        x_ND = all_ND[[row_of[fingerprint([record])] for record in records]]
        model = fit(x_ND, _labels(records), classes=len(corpus.labels), penalty=_PENALTY)
        hit_N: NDArray[np.bool_] = model(test_ND).argmax(1) == label_N
        each[site] = scored(hit_N, division)
    if cell.arm == "frozen_local":
        return _of_sites(each, visits=0)
    only = each[POOLED]
    return Outcome(accuracy=only.accuracy, macro_recall=only.macro_recall, own=only.own)


def _labels(records: Sequence[Record]) -> NDArray[np.int64]:
    return np.array([record.label for record in records])


def _of_sites(each: dict[str, Scored], *, visits: int) -> Outcome:
    """Sum up models that each belong to a site."""
    return Outcome(
        accuracy=float(np.mean([found.accuracy for found in each.values()])),
        macro_recall=float(np.mean([found.macro_recall for found in each.values()])),
        own={site: found.own[site] for site, found in each.items()},
        pooled_by_site={site: found.accuracy for site, found in each.items()},
        visits=visits,
    )


def _run(prepared: Prepared, cell: Cell, bench: Bench, *, sites: tuple[str, ...] | None) -> Result:
    """Run in a folder of its own that is gone afterwards."""
    shutil.rmtree(bench.scratch, ignore_errors=True)
    folder = RunDir(bench.scratch / cell.key)
    folder.path.mkdir(parents=True)
    try:
        return Federation(prepared, folder, sites=sites).run()
    finally:
        shutil.rmtree(bench.scratch, ignore_errors=True)


def _visits(config: SimulationConfig, division: Division) -> int:
    records = sum(len(table) for table in division.tables.sites.values())
    return round(config.rounds * config.training.steps_per_round * config.privacy.sampling_rate * records)


def _bytes(history: list[dict[str, Any]]) -> float:
    """Bytes that a site sent, on average, over these rounds."""
    return float(sum(np.mean(list(entry["bytes_out"].values())) for entry in history if entry["bytes_out"]))


def _bytes_by_rank(prepared: Prepared, cell: Cell, history: list[dict[str, Any]]) -> dict[str, float]:
    """Bytes that a site of each rank sent, on average, over these rounds."""
    sites: dict[str, list[str]] = {}
    for site in sorted(prepared.sites):
        sites.setdefault(str(rank_of(prepared, site) or cell.rank), []).append(site)
    return {
        rank: float(sum(entry["bytes_out"].get(site, 0) for entry in history for site in mine) / len(mine))
        for rank, mine in sites.items()
    }


def _lost(history: list[dict[str, Any]]) -> Lost | None:
    errors = [error for entry in history for error in entry.get("aggregation_error", ())]
    if not errors:
        return None
    return Lost(**{kind: float(np.mean([error[kind] for error in errors])) for kind in ("fedit", "best", "ours")})


def _curve(history: list[dict[str, Any]]) -> tuple[Point, ...]:
    return tuple(
        Point(
            round=entry["round"],
            accuracy=entry["held_out"]["exact"],
            bytes_per_site=_bytes(history[: index + 1]),
        )
        for index, entry in enumerate(history)
        if entry.get("held_out")
    )
