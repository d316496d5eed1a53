"""The canary round: an update that anyone can compute, masked and sent the way a real one goes.

Covers: no record is read and no budget is spent; what opens says nothing about a site.
Does not cover: training. The checks of the base model at each site do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from partsong.common.doctor.finding import Seen, fail, ok, skipped, warn

CANARY_LIMIT_S = 600.0
"""A canary waits for the sites of the cohort, as a round does."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CanaryResult:
    """How a canary run ended."""

    run: str
    finished: bool
    """Whether its sum opened and was what it had to be."""
    reason: str
    """Why it did not finish; empty otherwise."""
    answered: tuple[str, ...]
    """Sites whose vectors are in the sum."""
    missing: tuple[str, ...]
    """Other sites of the charter."""
    seconds: float


AskCanary = Callable[[], CanaryResult]
"""Has the running daemon carry out a canary run, and waits for its end."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LastCanary:
    """The newest canary that this side knows of."""

    run: str
    state: Literal["right", "wrong", "open"]
    """`open`: it has not ended, or the other side did not say how."""
    at_ms: int
    """When it began, since 1970."""
    reason: str = ""


def check_last(last: LastCanary | None, *, now_ms: int, have_one: str, more: str) -> Seen:
    """Judge the newest canary, where none is carried out now.

    Args:
        last: None: there was none.
        now_ms: since 1970.
        have_one: how to have one carried out.
        more: where more stands about one that did not end well.
    """
    if last is None:
        return skipped(f"none was carried out yet: {have_one}")
    found = f"run {last.run}, {_ago(now_ms - last.at_ms)} ago"
    if last.state == "right":
        return ok(f"{found}: the sum was right")
    if last.state == "wrong":
        return fail(
            f"{found}: {last.reason or 'no sum opened'}",
            cause="the path that updates will go did not work from end to end",
            remedy=f"{more}; once the cause is gone: {have_one}",
        )
    return warn(
        f"{found}: it has not ended here",
        cause="it is still under way, or this side or the line broke off before its end",
        remedy=f"{more}; then: {have_one}",
    )


def check_canary(ask: AskCanary) -> Seen:
    """Ask for a canary run and judge it."""
    result = ask()
    if not result.finished:
        return fail(
            f"run {result.run}: {result.reason or 'no sum opened'}",
            cause="the path that updates will go does not work from end to end",
            remedy=f"`partsong explain runs/{result.run}` says of every site how it fared",
        )
    found = f"{len(result.answered)} sites in {result.seconds:.1f} s: {', '.join(result.answered)}"
    if result.missing:
        return warn(
            found,
            cause=f"{', '.join(result.missing)} took no part",
            remedy=f"`partsong explain runs/{result.run}` says why",
        )
    return ok(found)


def _ago(passed_ms: int) -> str:
    minutes = max(0, passed_ms) // 60_000
    for unit, length in (("days", 1440), ("hours", 60)):
        if minutes >= 2 * length:
            return f"{minutes // length} {unit}"
    return f"{minutes} minutes"
