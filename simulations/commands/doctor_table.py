"""Findings for people: a table on a terminal, a line for each check elsewhere."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from partsong.common.doctor.finding import Finding, State, exit_code

_STYLE: dict[State, str] = {"ok": "green", "warn": "yellow", "fail": "bold red", "skipped": "dim"}


def show_lines(findings: Iterable[Finding], *, console: Console) -> list[Finding]:
    """Print each finding as it comes, in plain lines that a log can hold."""
    done = []
    for finding in findings:
        done.append(finding)
        seen = finding.seen
        _plain(console, f"{seen.state:<7} {finding.name}: {seen.found}")
        for name, text in (("cause", seen.cause), ("remedy", seen.remedy)):
            if text:
                _plain(console, f"        {name}: {text}")
    _plain(console, summary(done))
    return done


def show_table(findings: Iterable[Finding], *, console: Console) -> list[Finding]:
    """Print a table on a terminal."""
    with console.status("checking"):
        done = list(findings)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("", "check", "found"):
        table.add_column(column, overflow="fold")
    for finding in done:
        seen = finding.seen
        style = _STYLE[seen.state]
        found = Text(seen.found)
        for name, text in (("cause", seen.cause), ("remedy", seen.remedy)):
            if text:
                found.append(f"\n{name}: ", style="bold").append(text)
        table.add_row(Text(seen.state, style=style), Text(finding.name), found)
    console.print(table)
    _plain(console, summary(done))
    return done


def summary(findings: Iterable[Finding]) -> str:
    """Count the states in one line."""
    states = [finding.seen.state for finding in findings]
    words = {"ok": "ok", "warn": "to look at", "fail": "failed", "skipped": "skipped"}
    return ", ".join(f"{states.count(state)} {word}" for state, word in words.items() if state in states)


def to_tree(findings: Iterable[Finding]) -> dict[str, Any]:
    """Give what `--json` prints."""
    done = list(findings)
    return {"ok": exit_code(done) == 0, "findings": [finding.to_tree() for finding in done]}


def _plain(console: Console, text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)
