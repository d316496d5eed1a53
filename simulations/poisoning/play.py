"""Playing one cell: a federation with poisoners, scored on test records that nobody trained on or voted by."""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from partsong.client.data.encode import encode
from partsong.client.encoders.encoder import Encoder
from partsong.common.config import ModelConfig, SimulationConfig
from partsong.common.errors import PartsongError, TryAgain
from partsong.common.reach import largest_update
from partsong.simulations.federation import Federation, score_adapter
from partsong.simulations.poisoning.lineup import Cell, Lineup, settings_of
from partsong.simulations.poisoning.poisoner import Poisoner, flipped
from partsong.simulations.prepare import Prepared, prepare
from partsong.simulations.run_dir import RunDir
from partsong.simulations.studies.cell_config import configuration
from partsong.simulations.studies.corpus import Corpus, Division, divide
from partsong.simulations.studies.outcome import Outcome, scored


@dataclass(frozen=True, kw_only=True, slots=True)
class Bench:
    """What all cells share."""

    lineup: Lineup
    corpus: Corpus
    model: ModelConfig
    scratch: Path
    """Runs live here while they are played."""

    def settings(self, cell: Cell) -> dict[str, Any]:
        """Spell out the run of a cell. The reach that clips is settled when it is played, by the base's size."""
        return settings_of(cell, self.lineup, model=self.model, reach=1.0)


def play(cell: Cell, bench: Bench) -> Outcome:
    """Play a cell from its start to its scores.

    Guarantees: a run that diverges or has no sum is an outcome, not an error.
    Raises:
        InputError: the configuration or the model is wrong.
        TryAgain: the disk is full.
    """
    started, lineup = time.monotonic(), bench.lineup
    plain = configuration(bench.settings(cell))
    sites, dealt = cell.cohort.sites, plain.partition
    voters = divide(bench.corpus, dealt, sites=sites, part="validation", limit=lineup.vote_limit)
    tested = divide(bench.corpus, dealt, sites=sites, part="test", limit=lineup.test_limit)
    prepared = prepare(plain, tables=voters.tables)
    config = _clipped(cell, bench, prepared)
    prepared = _poisoned(prepared.with_config(config), cell)
    found = _outcome(prepared, cell, bench, tested)
    return dataclasses.replace(found, seconds=round(time.monotonic() - started, 1))


def _clipped(cell: Cell, bench: Bench, prepared: Prepared) -> SimulationConfig:
    """Bound updates by what this base and this training can reach."""
    training, size = prepared.config.training, prepared.host.layout.size(trained=True)
    reach = largest_update(training, None, size=size)
    return configuration(settings_of(cell, bench.lineup, model=bench.model, reach=reach))


def poisoners(cell: Cell, names: Mapping[str, Any]) -> frozenset[str]:
    """Name the sites that poison."""
    return frozenset(sorted(names)[len(names) - cell.cohort.poisoners :]) if cell.poison else frozenset()


def _poisoned(prepared: Prepared, cell: Cell) -> Prepared:
    """Give poisoners their wrong labels."""
    bad = poisoners(cell, prepared.sites)
    if cell.poison is None or not cell.poison.flips_labels:
        return prepared
    classes = len(prepared.tables.labels)
    sites = {
        name: flipped(encoded, classes=classes) if name in bad else encoded for name, encoded in prepared.sites.items()
    }
    return dataclasses.replace(prepared, sites=sites)


def _outcome(prepared: Prepared, cell: Cell, bench: Bench, tested: Division) -> Outcome:
    bad, poison = poisoners(cell, prepared.sites), cell.poison

    def stand_in(site: str, own: Encoder) -> Encoder:
        return Poisoner(own, poison) if poison is not None and site in bad else own

    shutil.rmtree(bench.scratch, ignore_errors=True)
    folder = RunDir(bench.scratch / cell.key)
    folder.path.mkdir(parents=True)
    try:
        result = Federation(prepared, folder, stand_in=stand_in).run()
    except TryAgain:
        raise
    except PartsongError as err:
        return Outcome(accuracy=None, macro_recall=None, failed=str(err))
    finally:
        shutil.rmtree(bench.scratch, ignore_errors=True)
    if tested.tables.held_out is None:
        raise AssertionError("a division has held-out records")
    data = dataclasses.replace(prepared.config.data, labels=prepared.tables.labels)
    test = encode(tested.tables.held_out, prepared.host.tokenizer, data, task="classification")
    scores = score_adapter(dataclasses.replace(prepared, held_out=test), result.trained_P, result.frozen_F)
    found = scored(np.asarray(scores.hit_N), tested)
    votes = [entry["vote"] for entry in result.history if "vote" in entry]
    return Outcome(
        accuracy=found.accuracy,
        macro_recall=found.macro_recall,
        dropped=tuple(int(vote["of"]) for vote in votes if not vote["kept"]),
    )
