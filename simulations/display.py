"""A run on the terminal: a live table where there is one, plain lines where there is none.

Everything goes to stderr; stdout is for results.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from partsong.common import events
from partsong.common.privacy.accounting import Unit
from partsong.common.time_left import PAUSE_S, words_of

_REFRESH_PER_S = 4


class Display(Protocol):
    """Listens to a run and shows it."""

    def __call__(self, event: events.Event) -> None:
        """Take an event in."""
        ...

    def __enter__(self) -> Self:
        """Begin to show."""
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop showing; the terminal is as before."""
        ...


@dataclass(kw_only=True, slots=True)
class _SiteRow:
    state: str = "waits"
    step: int = 0
    steps: int = 1
    local_loss: float | None = None
    bytes_out: int = 0


@dataclass(kw_only=True, slots=True)
class _Board:
    """What is known of a run so far."""

    title: str
    budget: float | None
    unit: Unit
    rounds: int = 0
    first: int = 0
    """Round that was opened first; above 1 after a resume."""
    round: int = 0
    sites: dict[str, _SiteRow] = field(default_factory=dict)
    loss: float | None = None
    epsilon: float | None = None
    held_out: events.Evaluated | None = None
    notice: str = ""
    """Why the last round gave no sum."""
    clock: Callable[[], float] = time.monotonic
    """Gives seconds that never run backwards."""
    started: float = field(init=False)

    def __post_init__(self) -> None:
        self.started = self.clock()

    def take(self, event: events.Event) -> None:  # noqa: C901, PLR0912  # one flat case per kind of event
        """Update from an event."""
        match event:
            case events.RunStarted():
                self.rounds, self.sites = event.rounds, {s: _SiteRow() for s in event.sites}
            case events.RoundOpened():
                self.round, self.first = event.round, self.first or event.round
                for site, row in self.sites.items():
                    self.sites[site] = _SiteRow(bytes_out=row.bytes_out)
            case events.SiteProgress():
                row = self.sites.setdefault(event.site, _SiteRow())
                row.state, row.step, row.steps, row.local_loss = "trains", event.step, event.steps, event.local_loss
            case events.SiteReady():
                self.sites[event.site].state = "ready"
            case events.SiteReported():
                row = self.sites[event.site]
                row.state, row.bytes_out = "sealed", row.bytes_out + event.bytes_out
            case events.SiteLost():
                self.sites[event.site].state = f"dropped ({event.why})"
            case events.SharesDisputed():
                self.notice = _disputed(event)
            case events.RoundSummed():
                self.loss, self.epsilon, self.notice = event.loss, event.epsilon, ""
            case events.RoundVoted():
                self.notice = "" if event.kept else _voted(event)
            case events.Evaluated():
                self.held_out = event
            case events.RoundAbandoned():
                self.notice = event.reason
            case events.ResultChecked():
                self.notice = _checked(event)

    @property
    def eta_s(self) -> float | None:
        """Seconds left, by the rounds done; None before the first."""
        done = self.round - self.first
        left = self.rounds - self.round + 1
        return None if done < 1 else (self.clock() - self.started) / done * left


class LiveDisplay:
    """A table that redraws itself."""

    def __init__(self, console: Console, *, title: str, budget: float | None, unit: Unit) -> None:
        """Show on `console`; `budget` is the run's epsilon for each `unit`."""
        self._board = _Board(title=title, budget=budget, unit=unit)
        self._live = Live(self._draw(), console=console, refresh_per_second=_REFRESH_PER_S, transient=False)

    def __call__(self, event: events.Event) -> None:
        """Take an event in and redraw."""
        self._board.take(event)
        self._live.update(self._draw())

    def __enter__(self) -> Self:
        """Begin to show."""
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the last table standing."""
        self._live.stop()

    def _draw(self) -> Group:
        board = self._board
        table = Table(box=None, pad_edge=False, header_style="bold")
        for name in ("site", "", "local loss (never sent)", "bytes out"):
            table.add_column(name, justify="right" if "loss" in name or "bytes" in name else "left")
        for site, row in board.sites.items():
            bar = ProgressBar(total=row.steps, completed=row.step, width=12) if row.state == "trains" else row.state
            loss = "" if row.local_loss is None else f"{row.local_loss:.2f}"
            table.add_row(site, bar, loss, f"{row.bytes_out:,}" if row.bytes_out else "")
        notice = [Text(board.notice, style="yellow")] if board.notice else []
        return Group(Text("  ".join([_headline(board), *_outlook(board)]), style="bold"), table, *notice)


class PlainDisplay:
    """A line per fact, for logs and pipes."""

    def __init__(
        self,
        console: Console,
        *,
        title: str,
        budget: float | None,
        unit: Unit,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Print on `console`; `budget` is the run's epsilon for each `unit`; `clock` gives seconds."""
        self._board, self._console = _Board(title=title, budget=budget, unit=unit, clock=clock), console

    def __call__(self, event: events.Event) -> None:
        """Print what is worth a line."""
        self._board.take(event)
        match event:
            case events.SiteReported():
                self._say(f"  {event.site}: sealed vector of {event.bytes_out:,} bytes left the site")
            case events.SiteLost():
                self._say(f"  {event.site}: dropped out of round {event.round} ({event.why})")
            case events.SiteProgress() if event.step == event.steps:
                self._say(f"  {event.site}: trained, local loss {event.local_loss:.2f} (shown here, never sent)")
            case events.SharesDisputed():
                self._say(f"  {_disputed(event)}")
            case events.RoundAbandoned():
                self._say(f"  {event.reason}")
            case events.ResultChecked():
                self._say(f"  {_checked(event)}")
            case events.RoundSummed():
                self._say(f"{_headline(self._board)}; sum of {len(event.sites)} sites{_left(self._board)}")
            case events.RoundVoted():
                self._say(f"  {_voted(event)}")
            case events.Evaluated():
                self._say(f"  held-out loss {event.loss:.3f}, exact {event.exact:.3f} after round {event.round}")
            case _:
                pass

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End."""

    def _say(self, line: str) -> None:
        self._console.print(line, highlight=False, soft_wrap=True, markup=False)


def display_for(console: Console, *, title: str, budget: float | None, unit: Unit) -> Display:
    """Choose by whether `console` is a terminal."""
    kind = LiveDisplay if console.is_terminal else PlainDisplay
    return kind(console, title=title, budget=budget, unit=unit)


def _left(board: _Board) -> str:
    """How long the rounds to come may take, where it is worth saying; the one that was summed is done."""
    done, left = board.round - board.first + 1, board.rounds - board.round
    left_s = (board.clock() - board.started) / done * left
    return f"; about {words_of(left_s)} left" if left_s >= PAUSE_S else ""


def _checked(event: events.ResultChecked) -> str:
    return f"{len(event.sites)} of {event.of} sites recomputed the adapter from the sums and signed that it is right"


def _voted(event: events.RoundVoted) -> str:
    votes = "no sum of votes" if event.votes is None else f"votes {event.votes:+.1f}"
    return f"round {event.of}: {votes}; its adapter is {'kept' if event.kept else 'dropped, the one before it stays'}"


def _disputed(event: events.SharesDisputed) -> str:
    named = f"; proven wrong: {', '.join(event.liars)}" if event.liars else ""
    return f"{event.disputes} shares contradicted others, the sum was opened without them{named}"


def _headline(board: _Board) -> str:
    parts = [f"{board.title}: round {board.round} of {board.rounds}"]
    if board.loss is not None:
        noised = " (noised)" if board.budget is not None else ""
        parts.append(f"federation loss{noised} {board.loss:.2f}")
    if board.budget is not None:
        parts.append(f"epsilon {board.epsilon or 0.0:.2f} of {board.budget:g} per {board.unit}")
    else:
        parts.append("NOT PRIVATE")
    return "  ".join(parts)


def _outlook(board: _Board) -> list[str]:
    """What the last evaluation said, and how long it may still take."""
    parts = []
    if (held := board.held_out) is not None:
        parts.append(f"held-out {held.loss:.2f}, exact {held.exact:.3f} after round {held.round}")
    if board.eta_s is not None and board.round < board.rounds:
        parts.append(f"about {board.eta_s:.0f} s left")
    return parts
