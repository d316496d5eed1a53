"""`partsong study generation`: play what is open of its grid, then write its page."""

from __future__ import annotations

import datetime as dt
import importlib.util
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

import partsong
from partsong.common.build import sha256_of
from partsong.common.config import ModelConfig
from partsong.common.errors import ConfigError
from partsong.simulations.generation.lineup import LINEUPS, Cell, Lineup
from partsong.simulations.generation.page import write_page
from partsong.simulations.generation.pairs import Pairs, made_up, read
from partsong.simulations.generation.play import Answers, Bench, play
from partsong.simulations.studies.medquad import SOURCES
from partsong.simulations.studies.open_cells import play_open
from partsong.simulations.studies.outcome import Store
from partsong.simulations.studies.page_words import machine_of
from partsong.simulations.studies.settings import StudyConfig
from partsong.simulations.studies.sources import Source


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
        ConfigError: settings that do not fit each other, or ROUGE-L cannot be computed here; nothing was run.
        TryAgain: the disk is full; the same command goes on from the last finished cell.
    """
    lineup, work = LINEUPS[config.grid], Path(config.work_dir) / "generation"
    _require_library()
    pairs, sources = _pairs(lineup, config)
    bench = Bench(
        lineup=lineup,
        pairs=pairs,
        model=ModelConfig(source=config.base, task="causal_lm", threads=config.threads, dtype=config.dtype),
        scratch=work / "scratch",
    )
    machine = machine_of(config)
    found = play_open(
        lineup.cells(),
        lambda cell: play(cell, bench),
        config=config,
        store=Store(work / config.grid, Answers),
        digest=lambda cell: _digest(cell, bench, sources),
        machine=machine,
        clock=clock,
        say=lambda text: console.print(text, highlight=False, soft_wrap=True, markup=False),
        words=_words,
    )
    page = write_page(found, lineup, config=config, sources=sources, machine=machine, day=today())
    return {
        "page": str(page),
        "cells": len(found),
        "failed": sum(answers is not None and answers.loss is None for _, answers in found),
        "empty": sum(answers is None for _, answers in found),
    }


def _pairs(lineup: Lineup, config: StudyConfig) -> tuple[Pairs, tuple[Source, ...]]:
    if not lineup.real:
        if config.data_dir is not None:
            raise ConfigError("data_dir", found="a folder with grid=smoke", expected="nothing: its pairs are made up")
        return made_up(train=lineup.train, test=lineup.test), ()
    if config.data_dir is None:
        raise ConfigError("data_dir", found="nothing", expected="the folder that holds medquad/")
    return read(Path(config.data_dir), train=lineup.train, test=lineup.test), SOURCES


def _require_library() -> None:
    if importlib.util.find_spec("rapidfuzz") is None:
        raise ConfigError(
            "study",
            found="no rapidfuzz, which ROUGE-L is computed with",
            expected="it to be installed",
            remedy="pip install 'partsong[evaluation]'",
        )


def _digest(cell: Cell, bench: Bench, sources: Sequence[Source]) -> str:
    """Name everything that a cell's result depends on; threads change no result."""
    settings, lineup = bench.settings(cell), bench.lineup
    settings["model"] = {key: value for key, value in settings["model"].items() if key != "threads"}
    sizes = [lineup.train, lineup.test, lineup.continued, lineup.most_new_tokens]
    data = {source.path: source.sha256 for source in sources}
    named = {"key": cell.key, "settings": settings, "data": data, "sizes": sizes, "version": partsong.__version__}
    return sha256_of(named)


def _words(answers: Answers) -> str:
    if answers.loss is None or answers.rouge is None:
        return f"failed: {answers.failed}"
    return f"loss {answers.loss:.3f}, ROUGE-L {answers.rouge:.3f}, {answers.seconds:.0f} s"
