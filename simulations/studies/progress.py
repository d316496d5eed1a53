"""How far a study is: a bar with the time left on a terminal, a line for each cell elsewhere."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from partsong.simulations.studies.declare import Cell
from partsong.simulations.studies.outcome import Outcome

_FORWARD = 0.5
"""Cost of scoring a record over that of training on it."""


class Listener(Protocol):
    """Told how a study goes on."""

    def begin(self, cells: Sequence[Cell]) -> None:
        """Hear what will be played."""
        ...

    def cell(self, cell: Cell) -> None:
        """Hear which cell begins."""
        ...

    def done(self, cell: Cell, outcome: Outcome) -> None:
        """Hear how it ended."""
        ...


class Bar:
    """Shows a study. The time left is that of the cells left, by what those done have cost for their size."""

    def __init__(self, console: Console) -> None:
        """Show on `console`."""
        self._console, self._started = console, time.monotonic()
        self._left: dict[str, float] = {}
        self._cost_done = 0.0
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
        )
        self._progress = Progress(*columns, console=console, disable=not console.is_terminal)
        self._task = self._progress.add_task("study", total=0, left="")

    def __enter__(self) -> Self:
        """Begin to show."""
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop showing; the terminal is as before."""
        self._progress.stop()

    def begin(self, cells: Sequence[Cell]) -> None:
        """Count the cells that are open."""
        self._left = {cell.key: cost(cell) for cell in cells}
        self._progress.update(self._task, total=len(cells))
        if not self._console.is_terminal:
            self._say(f"{len(cells)} cells to run")

    def cell(self, cell: Cell) -> None:
        """Name the cell that is played."""
        self._progress.update(self._task, description=cell.key)

    def done(self, cell: Cell, outcome: Outcome) -> None:
        """Say how it ended and how long the others will take."""
        self._cost_done += self._left.pop(cell.key, 0.0)
        left = self._time_left()
        self._progress.update(self._task, advance=1, left=left)
        score = f"failed: {outcome.failed}" if outcome.accuracy is None else f"accuracy {outcome.accuracy:.3f}"
        self._say(f"{cell.key}: {score}, {outcome.seconds:.0f} s; {len(self._left)} left, {left}")

    def _time_left(self) -> str:
        if not self._left or not self._cost_done:
            return "done"
        seconds = (time.monotonic() - self._started) / self._cost_done * sum(self._left.values())
        return f"about {dt.timedelta(seconds=round(seconds))}"

    def _say(self, text: str) -> None:
        self._console.print(text, highlight=False, soft_wrap=True, markup=False)


def cost(cell: Cell) -> float:
    """Weigh a cell by the tokens that it reads, up to a factor that is the same for all."""
    budget, split = cell.split.budget(cell.epsilon), cell.split
    visits = 0.0 if cell.method is None else budget.rounds * budget.steps_per_round * budget.sampling_rate
    scorings = {"local": split.sites or _PUBLISHERS, "frozen_pooled": 4, "frozen_local": 1}.get(cell.arm, 1)
    return split.max_length * (visits + _FORWARD * scorings * _TEST_SHARE)


_PUBLISHERS, _TEST_SHARE = 6, 0.2
"""Sites where the data name them, and test records for each training record: for an estimate only."""
