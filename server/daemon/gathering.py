"""Waiting until enough sites are there: all that the job expects, or as many as a sum takes.

Covers: a run never begins quietly without a site that its job expects; when the deadline passes, the ones that are
missing are named.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from partsong.common.errors import PartsongError
from partsong.common.identity.charter import Charter
from partsong.common.plan import Plan
from partsong.common.thresholds import smallest_roster


class SitesMissing(PartsongError):
    """The deadline passed before enough sites were connected or had accepted; no record was read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """Which sites a run waits for."""

    members: tuple[str, ...]
    """Of the charter."""
    expected: tuple[str, ...]
    needed: int
    """Fewest sites that a sum can come of."""

    def enough(self, connected: Iterable[str]) -> bool:
        """Whether the run can begin."""
        there = set(connected) & set(self.members)
        return set(self.expected) <= there and len(there) >= self.needed

    def all_there(self, connected: Iterable[str]) -> bool:
        """Whether nobody else can come."""
        return set(self.members) <= set(connected)

    def missing(self, connected: Iterable[str]) -> tuple[str, ...]:
        """The expected sites that are not connected; where none are expected, all of the charter that are not."""
        return tuple(sorted(set(self.expected or self.members) - set(connected)))


def wanted_by(plan: Plan, charter: Charter, *, expected: tuple[str, ...]) -> Wanted:
    """Say which sites a run of `plan` waits for."""
    members = tuple(site.id for site in charter.sites)
    needed = smallest_roster(charter.floors, plan_minimum=plan.minimum_cohort, members=len(members))
    return Wanted(members=members, expected=expected, needed=needed)


def gather(
    wanted: Wanted,
    connected: Callable[[], Iterable[str]],
    *,
    deadline_s: float,
    settle_s: float,
    pause: Callable[[float], bool],
    clock: Callable[[], float] = time.monotonic,
) -> bool:
    """Wait until enough sites are connected, and then a little for the others.

    Args:
        wanted: which sites.
        connected: ids of those that are connected now.
        deadline_s: on `clock`.
        settle_s: how long nobody new may have come before the run begins without those that are not expected.
        pause: waits so many seconds; True: the wait is over, the run is to stop.
        clock: seconds, never going back.
    Returns:
        False: told to stop.
    Raises:
        SitesMissing: the deadline passed.
    """
    before, since_s = set(connected()), clock()
    while True:
        there, now_s = set(connected()), clock()
        if there != before:
            before, since_s = there, now_s
        if wanted.enough(there) and (wanted.all_there(there) or now_s - since_s >= settle_s):
            return True
        if now_s >= deadline_s:
            known = there & set(wanted.members)
            raise SitesMissing(
                f"{len(known)} of {len(wanted.members)} sites connected, {wanted.needed} needed; missing: "
                f"{', '.join(wanted.missing(there))}; no record was read"
            )
        if pause(min(0.5, max(0.0, deadline_s - now_s))):
            return False
