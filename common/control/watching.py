"""Shows a daemon's progress as it happens: a bar on a terminal, plain lines anywhere else.

Colours follow rich's rules: none where NO_COLOR is set or the output is no terminal.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from partsong.common.control.feed import ProgressEvent


def event_line(event: ProgressEvent) -> str:
    """Say an event in one line: time (UTC), name, facts."""
    time = datetime.fromtimestamp(event.time_ms / 1000, tz=UTC).strftime("%H:%M:%SZ")
    return " ".join((time, event.event, *(f"{name}={_short(value)}" for name, value in event.facts.items())))


def event_json(event: ProgressEvent) -> str:
    """Say an event as one JSON object on one line."""
    return json.dumps({"time_ms": event.time_ms, "event": event.event, **event.facts}, allow_nan=False)


def show_events(events: Iterable[ProgressEvent], *, console: Console) -> None:
    """Print events until there are no more; steps of a round move a bar where there is a terminal."""
    if not console.is_terminal:
        for event in events:
            console.print(event_line(event), highlight=False, markup=False, soft_wrap=True)
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console, transient=True) as bars:
        rounds: dict[str, TaskID] = {}
        for event in events:
            if not _move(event, bars, rounds):
                bars.console.print(event_line(event), highlight=False, markup=False, soft_wrap=True)


def _move(event: ProgressEvent, bars: Progress, rounds: dict[str, TaskID]) -> bool:
    """Move the bar of a round; say whether the event is about one. A full bar goes."""
    step, steps = event.facts.get("step"), event.facts.get("steps")
    if not isinstance(step, int) or not isinstance(steps, int):
        return False
    whose = str(event.facts.get("run", event.facts.get("plan", "")))
    name = f"{_short(whose)} round {event.facts.get('round', '?')}".strip()
    if name not in rounds:
        rounds[name] = bars.add_task(name, total=steps)
    bars.update(rounds[name], completed=step)
    if step >= steps:
        bars.remove_task(rounds.pop(name))
    return True


def _short(value: object) -> str:
    """Shorten a hash to what people compare, and a number to what they read."""
    if isinstance(value, float):
        return f"{value:.4g}"
    text = str(value)
    return text[:12] if len(text) == 64 else text
