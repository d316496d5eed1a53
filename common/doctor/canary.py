"""The canary round: an update that anyone can compute, masked and sent the way a real one goes.

Covers: no record is read and no budget is spent; what opens says nothing about a site.
Does not cover: training. The checks of the base model at each site do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

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


def check_canary(ask: AskCanary | None) -> Seen:
    """Ask for a canary run and judge it."""
    if ask is None:
        return skipped("name the folder of a canary job with --canary to have one carried out")
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
