"""The canary round: one update of zeros, masked and sent the way a real one goes.

Covers: what opens is nothing; no record is read and no budget is spent.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from partsong.common.doctor.finding import Seen, fail, ok, skipped

CANARY_LIMIT_S = 300.0
"""A canary waits for every site of the cohort, as a round does."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CanaryResult:
    """How a canary round ended."""

    answered: tuple[str, ...]
    """Sites whose zeros are in the sum."""
    all_zero: bool
    """Whether the sum that opened was nothing but zeros."""
    seconds: float


AskCanary = Callable[[], CanaryResult]
"""Asks the running daemon for a canary round, over its control socket."""


def check_canary(ask: AskCanary | None) -> Seen:
    """Ask for a canary round and judge it."""
    if ask is None:
        return skipped("this daemon offers no canary round")
    result = ask()
    found = f"{len(result.answered)} sites in {result.seconds:.1f} s ({', '.join(result.answered)})"
    if not result.all_zero:
        return fail(
            f"{found}; the sum is not zero",
            cause="masks do not cancel, or a site sent something else than was asked for",
            remedy="start no run; `partsong explain` names what each site reported",
        )
    return ok(f"{found}; the sum opened to zeros")
