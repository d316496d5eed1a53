"""What a command is doing, on stderr: a line for each step, and on a terminal a mark that turns while it lasts."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.status import Status
from rich.text import Text


class Doing:
    """Says the steps of a command one after the other."""

    def __init__(self, console: Console) -> None:
        """Show on `console`."""
        self._console = console
        self._mark = Status("", console=console) if console.is_terminal else None

    def __call__(self, text: str) -> None:
        """Begin a step, which ends the one before it.

        Args:
            text: what is done, for people.
        """
        self._console.print(Text(text), soft_wrap=True)
        if self._mark is not None:
            self._mark.start()

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take the mark away; the lines stay."""
        if self._mark is not None:
            self._mark.stop()


def silent(_text: str) -> None:
    """Say nothing."""
