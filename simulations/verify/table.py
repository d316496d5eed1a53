"""What a check of a run has found, for people and for programs, and a bar while it lasts."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from partsong.common.build import to_tree
from partsong.common.time_left import TimeLeft
from partsong.simulations.verify.findings import Verification

_PATIENCE_S = 2.0
_WHAT = "recomputing rounds"
_STYLES = {"right": "green", "wrong": "bold red", "not checked": "yellow"}


class Bar:
    """A bar on the terminal, once the check has taken two seconds; in logs and pipes a line every ten seconds."""

    def __init__(self, console: Console, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Show on `console`; `clock` gives seconds that never run backwards."""
        columns = TextColumn(_WHAT), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        self._console, self._clock = console, clock
        self._bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self._bar.add_task("", total=None)
        self._began_s, self._done = clock(), 0
        self._lines: TimeLeft | None = None

    def __call__(self, done: int, of: int) -> None:
        """Take the progress in."""
        if not self._console.is_terminal:
            self._write(done, of)
            return
        if self._clock() - self._began_s > _PATIENCE_S:
            self._bar.start()
        self._bar.update(self._task, completed=done, total=of)

    def _write(self, done: int, of: int) -> None:
        if self._lines is None:
            self._lines = TimeLeft(
                _WHAT, of=max(1, of), say=lambda line: _say(self._console, Text(line)), clock=self._clock
            )
        for _ in range(done - self._done):
            self._lines.step()
        self._done = done

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take the bar away."""
        self._bar.stop()


def show(found: Verification, *, console: Console) -> None:
    """Print the table and one line that says how it ended."""
    names = {"plan": found.plan_sha256, "charter": found.charter_sha256}
    for name, sha256 in names.items():
        if sha256 is not None:
            _say(console, Text(f"{name:7}  sha256 {sha256}"))
    width = max((len(line.place) for line in found.findings), default=0)
    for line in found.findings:
        about = "" if line.round is None else f"round {line.round}: "
        what = line.detail if line.detail.startswith(about) else f"{about}{line.detail}"
        _say(console, Text.assemble((f"{line.verdict:11}", _STYLES[line.verdict]), f"  {line.place:{width}}  {what}"))
    _say(console, Text(f"\n{summary(found)}"))


def summary(found: Verification) -> str:
    """Say in one line how it ended."""
    count = {verdict: sum(line.verdict == verdict for line in found.findings) for verdict in _STYLES}
    rest = f"{count['right']} right, {count['not checked']} not checked"
    if found.wrong:
        first = found.wrong[0]
        where = first.place if first.round is None else f"round {first.round}, {first.place}"
        return f"NOT VERIFIED: {where}; {count['wrong']} wrong, {rest}"
    if not found.masked:
        return f"unmasked run: nobody signed its sums; {rest}"
    sums = [line for line in found.findings if line.place.startswith("coordinator/spool/")]
    again = sum(line.verdict == "right" for line in sums)
    return (
        f"verified: the published adapter follows from the signed sums, {again} of {len(sums)} of them recomputed "
        f"from masked vectors; {rest}"
    )


def facts(found: Verification) -> dict[str, Any]:
    """Give all of it as mappings, lists and scalars."""
    return {"verified": not found.wrong and bool(found.masked), "summary": summary(found), **to_tree(found)}


def _say(console: Console, text: Text) -> None:
    console.print(text, soft_wrap=True)
