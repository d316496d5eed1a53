"""Playing a grid: what is done stays done, what is open is played, what cannot be played stays empty."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from partsong.common.config import ModelConfig
from partsong.simulations.studies import made_up, runner
from partsong.simulations.studies.catalogue import FFA, STUDIES
from partsong.simulations.studies.declare import Cell, Study
from partsong.simulations.studies.feature_shelf import FeatureShelf
from partsong.simulations.studies.outcome import Outcome, Store
from partsong.simulations.studies.play import Bench
from partsong.simulations.studies.runner import Terms, collect, rate_of, run

TINY = ModelConfig(source=str(Path(__file__).parents[2] / "fixtures" / "tiny-bert"), task="classification", threads=1)
FEW = dataclasses.replace(STUDIES["medquad"].grids["smoke"], methods=(FFA,), baseline=None)


class Heard:
    """Notes what it is told."""

    def __init__(self, *, stop_at: int | None = None) -> None:
        self.open: list[str] = []
        self.done_keys: list[str] = []
        self._stop_at = stop_at

    def begin(self, cells: Sequence[Cell]) -> None:
        self.open = [cell.key for cell in cells]

    def cell(self, cell: Cell) -> None:
        if len(self.done_keys) == self._stop_at:
            raise KeyboardInterrupt

    def done(self, cell: Cell, outcome: Outcome) -> None:
        self.done_keys.append(cell.key)


@pytest.fixture
def terms(tmp_path: Path) -> Terms:
    study = Study(name="small", title="Small", question="?", grids={"smoke": FEW})
    return Terms(
        study=study,
        grid="smoke",
        model=TINY,
        sweep="run",
        data={},
        records={"made-up": 160},
        store=Store(tmp_path / "cells", Outcome),
    )


@pytest.fixture
def play(terms: Terms, tmp_path: Path) -> Callable[..., Heard]:
    def played(
        *,
        stop_at: int | None = None,
        wanted: Callable[[Cell], bool] = lambda _: True,
        clock: Callable[[], float] = lambda: 0.0,
        stop_after_s: float | None = None,
    ) -> Heard:
        heard = Heard(stop_at=stop_at)
        shelf = FeatureShelf(folder=tmp_path / "features")
        bench = Bench(corpora={"made-up": made_up.make()}, scratch=tmp_path / "scratch", shelf=shelf)
        run(
            terms,
            bench,
            wanted=wanted,
            machine={},
            clock=clock,
            stop_after_s=stop_after_s,
            listen=heard,
        )
        return heard

    return played


def test_a_stopped_study_goes_on_where_it_was(play: Callable[..., Heard], terms: Terms, tmp_path: Path) -> None:
    """Stopped in its third cell: the two before it are not played again, and what it had begun is not used."""
    with pytest.raises(KeyboardInterrupt):
        play(stop_at=2)
    (tmp_path / "scratch" / "left").mkdir(parents=True)
    kept = {file.name: file.read_bytes() for file in (tmp_path / "cells").iterdir()}

    again = play()

    assert len(kept) == 2
    assert len(again.done_keys) == 2
    assert all((tmp_path / "cells" / name).read_bytes() == content for name, content in kept.items())
    assert all(entry.outcome is not None for entry in collect(terms))
    assert not (tmp_path / "scratch").exists()
    assert play().done_keys == []


def test_a_cell_takes_the_best_rate_of_its_sweep(play: Callable[..., Heard], terms: Terms) -> None:
    """The smaller one of equals. Before the sweep is done there is none, and the cell stays empty."""
    swept, measured = [c for c in terms.study.cells("smoke") if c.swept_rate], terms.study.cells("smoke")[-1]
    assert rate_of(measured, terms) is None
    assert collect(terms)[-1].why_empty == "its learning rate was not swept"

    accuracy = {0.003: 0.25, 0.01: 0.5, 0.03: 0.5}
    for cell in swept:
        settings = runner._settings(cell, terms, cell.swept_rate)
        outcome = Outcome(accuracy=accuracy[cell.swept_rate or 0], macro_recall=0.0)
        terms.store.write(cell.key, runner.digest_of(cell, settings, data={}), outcome, machine={})

    assert rate_of(measured, terms) == 0.01
    assert play().done_keys == [measured.key]
    assert collect(terms)[-1].outcome is not None


def test_the_middle_rate_is_taken_where_none_is_swept(terms: Terms) -> None:
    """It is another configuration than that of another rate."""
    declared = dataclasses.replace(terms, sweep="declared")

    assert rate_of(terms.study.cells("smoke")[-1], declared) == 0.01


def test_no_cell_begins_when_the_time_is_over(play: Callable[..., Heard]) -> None:
    """A clock that jumps ten seconds at every look: the first cell begins, the second one does not."""
    ticks = iter(range(0, 1000, 10))

    heard = play(clock=lambda: float(next(ticks)), stop_after_s=15.0)

    assert len(heard.done_keys) == 1
    assert len(heard.open) == 4


def test_cells_that_are_not_wanted_stay_empty(play: Callable[..., Heard], terms: Terms) -> None:
    """They are not counted as open either."""
    heard = play(wanted=lambda cell: "sweep0.01" in cell.key)

    assert heard.open == heard.done_keys == [terms.study.cells("smoke")[1].key]
    assert [entry.outcome is None for entry in collect(terms)] == [True, False, True, True]


def test_a_run_that_diverges_is_an_outcome(play: Callable[..., Heard], terms: Terms, tmp_path: Path) -> None:
    """Nothing is averaged, and the reason is kept."""
    study = dataclasses.replace(
        terms.study, grids={"smoke": dataclasses.replace(FEW, methods=(dataclasses.replace(FFA, rates=(1e38,) * 3),))}
    )
    wild = dataclasses.replace(terms, study=study, sweep="declared")
    bench = Bench(
        corpora={"made-up": made_up.make()}, scratch=tmp_path / "scratch", shelf=FeatureShelf(folder=tmp_path / "f")
    )
    heard = Heard()

    run(
        wild,
        bench,
        wanted=lambda cell: cell.swept_rate is None,
        machine={},
        clock=lambda: 0.0,
        stop_after_s=None,
        listen=heard,
    )

    outcome = collect(wild)[-1].outcome
    assert outcome is not None
    assert outcome.accuracy is None
    assert outcome.failed
