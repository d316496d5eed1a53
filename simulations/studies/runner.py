"""A study from its first open cell to its last: skip what is done, choose rates, play, keep."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from partsong.common.config import ModelConfig
from partsong.simulations.studies.cell_config import configuration, digest_of, spelled_out
from partsong.simulations.studies.declare import Cell, Grid, Study, sweep_of
from partsong.simulations.studies.outcome import Outcome, Store
from partsong.simulations.studies.play import Bench, play
from partsong.simulations.studies.progress import Listener

Clock = Callable[[], float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Terms:
    """What is run, and of what."""

    study: Study
    grid: Grid
    model: ModelConfig
    sweep: Literal["run", "declared"]
    data: Mapping[str, str]
    """SHA-256 of each file, by its path."""
    records: Mapping[str, int]
    """Training records of each corpus."""
    store: Store[Outcome]


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """A cell of the grid and what is known of it."""

    cell: Cell
    outcome: Outcome | None
    why_empty: str | None
    """None where there is an outcome."""


def collect(terms: Terms) -> tuple[Entry, ...]:
    """Look up every cell of a grid, without playing any."""
    return tuple(_entry(cell, terms) for cell in terms.study.cells(terms.grid))


def run(
    terms: Terms,
    bench: Bench,
    *,
    wanted: Callable[[Cell], bool],
    machine: Mapping[str, Any],
    clock: Clock,
    stop_after_s: float | None,
    listen: Listener,
) -> None:
    """Play every cell that is wanted and open.

    Guarantees:
        - a finished cell is on the disk before the next begins, so the same call after a kill goes on where it was;
        - a cell whose rate is not chosen yet is left open.
    Args:
        terms: what is run.
        bench: corpora and folders.
        wanted: which cells.
        machine: that this is; kept with each cell.
        clock: seconds, monotonic.
        stop_after_s: no cell begins later than this; None: no limit.
        listen: told before and after each cell.
    """
    started = clock()
    chosen = [cell for cell in terms.study.cells(terms.grid) if wanted(cell)]
    listen.begin([cell for cell in chosen if _entry(cell, terms).outcome is None])
    for cell in chosen:
        entry = _entry(cell, terms)
        rate = rate_of(cell, terms)
        if entry.outcome is not None or (rate is None and cell.method is not None):
            continue
        if stop_after_s is not None and clock() - started >= stop_after_s:
            break
        settings = _settings(cell, terms, rate)
        listen.cell(cell)
        outcome = play(cell, configuration(settings), bench)
        terms.store.write(cell.key, digest_of(cell, settings, data=terms.data), outcome, machine=machine)
        listen.done(cell, outcome)


def rate_of(cell: Cell, terms: Terms) -> float | None:
    """Choose a cell's learning rate: the best of its sweep, by accuracy on validation; a tie goes to the smaller rate.

    Returns:
        None where nothing is trained, or the sweep is not finished.
    """
    if cell.method is None:
        return None
    if cell.swept_rate is not None:
        return cell.swept_rate
    if terms.sweep == "declared":
        return cell.method.rates_at(cell.epsilon)[1]
    swept = sweep_of(cell, terms.study.cells(terms.grid))
    found = [(other, _entry(other, terms).outcome) for other in swept]
    if any(outcome is None for _, outcome in found):
        return None
    best = min((-(outcome.accuracy or 0.0), other.swept_rate or 0.0) for other, outcome in found if outcome is not None)
    return best[1]


def _entry(cell: Cell, terms: Terms) -> Entry:
    rate = rate_of(cell, terms)
    if rate is None and cell.method is not None:
        return Entry(cell=cell, outcome=None, why_empty="its learning rate was not swept")
    outcome = terms.store.read(cell.key, digest_of(cell, _settings(cell, terms, rate), data=terms.data))
    return Entry(cell=cell, outcome=outcome, why_empty="not run" if outcome is None else None)


def _settings(cell: Cell, terms: Terms, rate: float | None) -> dict[str, Any]:
    return spelled_out(cell, terms.study, model=terms.model, rate=rate, records=terms.records[cell.split.corpus])
