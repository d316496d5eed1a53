"""`partsong study poisoning`: play what is open of its grid, then write its page."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

import partsong
from partsong.common.build import sha256_of
from partsong.common.config import ModelConfig
from partsong.simulations.poisoning.lineup import LINEUPS, Cell
from partsong.simulations.poisoning.page import write_page
from partsong.simulations.poisoning.play import Bench, play
from partsong.simulations.studies.catalogue import SOURCES, read_corpus
from partsong.simulations.studies.open_cells import play_open
from partsong.simulations.studies.outcome import Outcome, Store
from partsong.simulations.studies.page_words import machine_of
from partsong.simulations.studies.settings import StudyConfig


def study(
    config: StudyConfig,
    *,
    console: Console,
    today: Callable[[], dt.date] = lambda: dt.datetime.now(dt.UTC).date(),
    clock: Callable[[], float] = time.monotonic,
) -> dict[str, Any]:
    """Run the study as far as its settings let it, and write the page of what there is.

    Args:
        config: where data are, which grid, how long. Nothing is swept.
        console: for talk.
        today: date of the page.
        clock: seconds, monotonic.
    Returns:
        where the page is, and how many cells are done, failed and empty.
    Raises:
        DataError: the dataset is absent or has other bytes; nothing was run.
        ConfigError: settings that do not fit each other.
        TryAgain: the disk is full; the same command goes on from the last finished cell.
    """
    lineup, work = LINEUPS[config.grid], Path(config.work_dir) / "poisoning"
    corpus = read_corpus(lineup.corpus, None if config.data_dir is None else Path(config.data_dir))
    cells, sources = lineup.cells(), SOURCES[lineup.corpus]
    bench = Bench(
        lineup=lineup,
        corpus=corpus,
        model=ModelConfig(source=config.base, task="classification", threads=config.threads, dtype=config.dtype),
        scratch=work / "scratch",
    )
    store, data = Store(work / config.grid, Outcome), {source.path: source.sha256 for source in sources}
    machine = machine_of(config)

    def name(cell: Cell) -> str:
        settings = bench.settings(cell)
        settings["model"] = {key: value for key, value in settings["model"].items() if key != "threads"}
        limits = [lineup.vote_limit, lineup.test_limit]
        return sha256_of({"settings": settings, "data": data, "limits": limits, "version": partsong.__version__})

    found = play_open(
        cells,
        lambda cell: play(cell, bench),
        config=config,
        store=store,
        digest=name,
        machine=machine,
        clock=clock,
        say=lambda text: console.print(text, highlight=False, soft_wrap=True, markup=False),
        words=_words,
    )
    page = write_page(found, lineup, config=config, sources=sources, machine=machine, day=today())
    return {
        "page": str(page),
        "cells": len(found),
        "failed": sum(outcome is not None and outcome.accuracy is None for _, outcome in found),
        "empty": sum(outcome is None for _, outcome in found),
    }


def _words(outcome: Outcome) -> str:
    score = f"failed: {outcome.failed}" if outcome.accuracy is None else f"accuracy {outcome.accuracy:.3f}"
    return f"{score}, {len(outcome.dropped)} rounds dropped, {outcome.seconds:.0f} s"
