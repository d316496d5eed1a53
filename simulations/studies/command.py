"""`partsong study`: play what is open of a grid, then write its page."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from partsong.common.config import ModelConfig
from partsong.common.errors import ConfigError
from partsong.simulations.studies.catalogue import SOURCES, STUDIES, read_corpora
from partsong.simulations.studies.declare import Study
from partsong.simulations.studies.feature_shelf import FeatureShelf
from partsong.simulations.studies.outcome import Outcome, Store
from partsong.simulations.studies.page import write_page
from partsong.simulations.studies.page_words import machine_of
from partsong.simulations.studies.play import Bench
from partsong.simulations.studies.progress import Bar
from partsong.simulations.studies.runner import Terms, collect, run
from partsong.simulations.studies.settings import StudyConfig


def study(
    name: str,
    config: StudyConfig,
    *,
    console: Console,
    today: Callable[[], dt.date] = lambda: dt.datetime.now(dt.UTC).date(),
    clock: Callable[[], float] = time.monotonic,
) -> dict[str, Any]:
    """Run a study as far as its settings let it, and write the page of what there is.

    Args:
        name: of the study.
        config: where data are, which grid, how long.
        console: for talk and progress.
        today: date of the page.
        clock: seconds, monotonic.
    Returns:
        where the page is, and how many cells are done, failed and empty.
    Raises:
        DataError: a dataset is absent or has other bytes; nothing was run.
        ConfigError: settings that do not fit each other.
        TryAgain: the disk is full; the same command goes on from the last finished cell.
    """
    chosen, work = STUDIES[name], Path(config.work_dir) / name
    corpora = read_corpora(chosen, config.grid, None if config.data_dir is None else Path(config.data_dir))
    sources = tuple(source for corpus in sorted(corpora) for source in SOURCES[corpus])
    _check_only(chosen, config)
    terms = Terms(
        study=chosen,
        grid=config.grid,
        model=ModelConfig(source=config.base, task="classification", threads=config.threads, dtype=config.dtype),
        sweep=config.sweep,
        data={source.path: source.sha256 for source in sources},
        records={corpus.name: len(corpus.train) for corpus in corpora.values()},
        store=Store(work / config.grid, Outcome),
    )
    machine = machine_of(config)
    with Bar(console) as bar:
        run(
            terms,
            Bench(corpora=corpora, scratch=work / "scratch", shelf=FeatureShelf(folder=work / "features")),
            wanted=lambda cell: not config.only or any(part in cell.key for part in config.only),
            machine=machine,
            clock=clock,
            stop_after_s=None if config.hours is None else 3600 * config.hours,
            listen=bar,
        )
    entries = collect(terms)
    page = write_page(terms, entries, config=config, sources=sources, corpora=corpora, machine=machine, day=today())
    outcomes = [entry.outcome for entry in entries]
    return {
        "page": str(page),
        "cells": len(entries),
        "failed": sum(outcome is not None and outcome.accuracy is None for outcome in outcomes),
        "empty": outcomes.count(None),
    }


def _check_only(chosen: Study, config: StudyConfig) -> None:
    keys = [cell.key for cell in chosen.cells(config.grid)]
    for part in config.only:
        if not any(part in key for key in keys):
            raise ConfigError("only", found=repr(part), expected=f"a part of a cell's name, such as {keys[-1]}")
