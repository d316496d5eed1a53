"""Playing one cell: a federation, one site or nobody trains; then the model reads held-out answers and gives some."""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from partsong.client.encoders.evaluation import learned_tokens
from partsong.client.encoders.rouge import learned_stretch, rouge_l
from partsong.common.adapters.adapter import FloatVec
from partsong.common.config import ModelConfig
from partsong.common.errors import PartsongError, TryAgain
from partsong.simulations.federation import Federation, fresh_adapter, score_adapter
from partsong.simulations.generation.lineup import Cell, Lineup, settings_of
from partsong.simulations.generation.pairs import Pairs, table_of
from partsong.simulations.prepare import Prepared, SiteTables, prepare
from partsong.simulations.run_dir import RunDir
from partsong.simulations.studies.cell_config import configuration
from partsong.simulations.studies.corpus import POOLED


@dataclass(frozen=True, kw_only=True, slots=True)
class Answers:
    """A finished cell."""

    loss: float | None
    """Of the held-out answers' tokens, each read after the right ones before it [nats]. None: the run failed."""
    rouge: float | None
    """ROUGE-L of the model's own answers, the mean over those that were asked for."""
    loss_by_site: Mapping[str, float] = field(default_factory=dict)
    """By whose kind of answers."""
    rouge_by_site: Mapping[str, float] = field(default_factory=dict)
    visits: int = 0
    """Records that were looked at, expected."""
    bytes_per_site: float | None = None
    seconds: float = 0.0
    failed: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Bench:
    """What all cells share."""

    lineup: Lineup
    pairs: Pairs
    model: ModelConfig
    scratch: Path
    """Runs live here while they are played."""

    def settings(self, cell: Cell) -> dict[str, Any]:
        """Spell out the run of a cell."""
        return settings_of(cell, self.lineup, model=self.model)


def play(cell: Cell, bench: Bench) -> Answers:
    """Play a cell from its start to its scores.

    Guarantees: a run that diverges or has no sum is an outcome, not an error.
    Raises:
        InputError: the configuration or the model is wrong.
        TryAgain: the disk is full.
    """
    started = time.monotonic()
    prepared = prepare(configuration(bench.settings(cell)), tables=_tables(cell, bench))
    found = _base(prepared, bench) if cell.arm == "base" else _trained(prepared, cell, bench)
    return dataclasses.replace(found, seconds=round(time.monotonic() - started, 1))


def _tables(cell: Cell, bench: Bench) -> SiteTables:
    """Deal the pairs to whoever trains; all are tested on the same ones."""
    sites = {site: tuple(p for p in bench.pairs.train if p.site == site) for site in bench.pairs.sites}
    if cell.arm == "pooled":
        sites = {POOLED: bench.pairs.train}
    elif cell.site is not None:
        sites = {cell.site: sites[cell.site]}
    return SiteTables(
        sites={name: table_of(pairs, name=name) for name, pairs in sites.items()},
        held_out=table_of(bench.pairs.test, name="test"),
        held_out_by_site={},
        labels=(),
        manifest={name: {"records": len(pairs)} for name, pairs in sites.items()},
    )


def _base(prepared: Prepared, bench: Bench) -> Answers:
    return _judged(prepared, bench, *fresh_adapter(prepared))


def _trained(prepared: Prepared, cell: Cell, bench: Bench) -> Answers:
    shutil.rmtree(bench.scratch, ignore_errors=True)
    folder = RunDir(bench.scratch / cell.key)
    folder.path.mkdir(parents=True)
    try:
        result = Federation(prepared, folder).run()
    except TryAgain:
        raise
    except PartsongError as err:
        return Answers(loss=None, rouge=None, failed=str(err))
    finally:
        shutil.rmtree(bench.scratch, ignore_errors=True)
    sent = [np.mean(list(entry["bytes_out"].values())) for entry in result.history if entry["bytes_out"]]
    config, records = prepared.config, sum(len(table) for table in prepared.tables.sites.values())
    return dataclasses.replace(
        _judged(prepared, bench, result.trained_P, result.frozen_F),
        visits=round(config.rounds * config.training.steps_per_round * config.privacy.sampling_rate * records),
        bytes_per_site=float(sum(sent)) if cell.arm == "federated" else None,
    )


def _judged(prepared: Prepared, bench: Bench, trained_P: FloatVec, frozen_F: FloatVec) -> Answers:
    """Read the held-out answers to the model, token after token, then have it answer some questions itself."""
    if prepared.held_out is None:
        raise AssertionError("a cell has held-out pairs")
    loss_N = score_adapter(prepared, trained_P, frozen_F).loss_N
    records, host = prepared.held_out.records, prepared.host
    token_N = np.array([learned_tokens(record) for record in records])
    site_N = np.array([pair.site for pair in bench.pairs.test])
    rouges: dict[str, float] = {}
    for site in bench.pairs.sites:
        said = []
        for place in np.flatnonzero(site_N == site)[: bench.lineup.continued]:
            record = records[place]
            start, stop = learned_stretch(record)
            own_T = host.continued(record.input_ids[:start], max_new_tokens=bench.lineup.most_new_tokens)
            meant_T = record.input_ids[start : min(stop, start + bench.lineup.most_new_tokens)]
            said.append(rouge_l(host.text_of(own_T), host.text_of(meant_T)))
        rouges[site] = float(np.mean(said))
    by_site = {
        site: float(np.average(loss_N[site_N == site], weights=token_N[site_N == site])) for site in bench.pairs.sites
    }
    return Answers(
        loss=float(np.average(loss_N, weights=token_N)),
        rouge=float(np.mean(list(rouges.values()))),
        loss_by_site=by_site,
        rouge_by_site=rouges,
    )
