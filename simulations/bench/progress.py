"""How far a benchmark is: a bar with the time left on a terminal, a line for each stage elsewhere."""

from __future__ import annotations

from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn
from rich.text import Text

from partsong.common.time_left import words_of
from partsong.simulations.bench.stages import Moment

_REFRESH_PER_S = 1
"""Drawing takes a moment of the process that is measured: so few that no figure shows it."""


class Shown(Protocol):
    """Shows a benchmark while it is open."""

    def __call__(self, moment: Moment) -> None:
        """Hear that a stage begins."""
        ...

    def __enter__(self) -> Self:
        """Begin to show."""
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop showing."""
        ...


class Lines:
    """A line before each stage, for logs and pipes."""

    def __init__(self, console: Console) -> None:
        """Print on `console`."""
        self._console = console

    def __call__(self, moment: Moment) -> None:
        """Say which stage begins."""
        self._console.print(Text(f"{words(moment)}; {_so_far(moment)}about {words_of(moment.left_s)} left"))

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End."""


class Bar:
    """A bar that goes on with each stage, and clocks that go on meanwhile."""

    def __init__(self, console: Console) -> None:
        """Show on `console`."""
        columns = TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn(), _Left()
        self._bar = Progress(*columns, console=console, refresh_per_second=_REFRESH_PER_S)
        self._task = self._bar.add_task("", total=1.0, left_s=None, began_s=0.0)

    def __call__(self, moment: Moment) -> None:
        """Show which stage begins."""
        self._bar.update(
            self._task,
            description=words(moment),
            completed=moment.done,
            left_s=moment.left_s,
            began_s=self._bar.get_time(),
            refresh=True,
        )

    def __enter__(self) -> Self:
        """Begin to show."""
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the last bar standing, full if all was measured."""
        if error is None:
            self._bar.update(self._task, description="measured", completed=1.0, left_s=0.0)
        self._bar.stop()


class _Left(ProgressColumn):
    """The time left at the beginning of the stage, less what has passed of it."""

    def render(self, task: Task) -> Text:
        """Give the words."""
        left_s: float | None = task.fields["left_s"]
        if left_s is None or task.finished:
            return Text("")
        passed_s = task.get_time() - task.fields["began_s"]
        return Text(f"about {words_of(max(left_s - passed_s, 0.0))} left")


def shown_on(console: Console) -> Shown:
    """Choose by whether `console` is a terminal."""
    return Bar(console) if console.is_terminal else Lines(console)


def words(moment: Moment) -> str:
    """Name a stage with its place."""
    return f"{moment.number} of {moment.of}: {moment.what}"


def _so_far(moment: Moment) -> str:
    return f"{words_of(moment.elapsed_s)} so far, " if moment.number > 1 else ""
