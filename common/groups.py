"""Groups of sites with sums of their own: who is asked in which round, so that the median of their means can be taken.

Covers: every sum is of one group alone, and each group keeps the floors of a sum. A site is in one group for the whole
run, so its rounds, and what they cost, are one in as many as there are groups.
Does not cover: who is dealt into which group. The plan names everybody, so each site can see it; whoever makes the plan
chooses, and the floors of a sum are what protects an update in its group.

Source: medians over the means of groups, Chen, Su and Xu 2017 (arXiv 1705.05491), section 3, which tolerates bad sites
in fewer than half of the groups.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # a plan checks itself with this module
    from partsong.common.plan import Plan

FEWEST = 3
"""With two, the median is the mean."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Groups:
    """Who is asked when: round 1 asks the first group, round 2 the second, and after the last comes the first again."""

    sites: tuple[tuple[str, ...], ...]
    """Names of each group's sites, ascending."""

    def __post_init__(self) -> None:
        everybody = [name for group in self.sites for name in group]
        if len(self.sites) < FEWEST:
            raise ValueError(f"at least {FEWEST} groups, not {len(self.sites)}")
        if len(set(everybody)) != len(everybody) or any(tuple(sorted(group)) != group for group in self.sites):
            raise ValueError("each site in one group, the names of a group in order")

    @property
    def count(self) -> int:
        """Groups, and rounds in which each of them is asked once."""
        return len(self.sites)

    @property
    def smallest(self) -> int:
        """Sites of the smallest group."""
        return min(map(len, self.sites))

    def place(self, number: int) -> int:
        """Give the place of the group that round `number` asks, from 0."""
        return (number - 1) % self.count

    def step(self, number: int) -> int:
        """Give the step of the adapter that round `number` is a part of, from 1."""
        return (number - 1) // self.count + 1

    def asked(self, number: int) -> tuple[str, ...]:
        """Name the sites of the group that round `number` asks."""
        return self.sites[self.place(number)]


def deal(names: Iterable[str], *, count: int, run: str) -> Groups:
    """Deal sites into groups of about one size, in an order that only names decide.

    Args:
        names: of all sites.
        count: groups.
        run: name of the run: the next one deals anew.
    """

    def place(name: str) -> bytes:
        return hashlib.sha256(f"partsong group\0{run}\0{name}".encode()).digest()

    dealt = sorted(names, key=place)
    return Groups(sites=tuple(tuple(sorted(dealt[first::count])) for first in range(count)))


def asked_in(plan: Plan, number: int, names: Collection[str]) -> tuple[str, ...]:
    """Give those of `names` that round `number` may ask, in their order."""
    if plan.groups is None:
        return tuple(names)
    group = frozenset(plan.groups.asked(number))
    return tuple(name for name in names if name in group)


def check_groups(plan: Plan) -> None:
    """Accept a plan by returning.

    Raises:
        ValueError: groups in a plan whose rounds do something else than train, that have no whole number of turns, or
            of which one is smaller than a sum may be.
    """
    groups = plan.groups
    if groups is None:
        return
    if plan.study not in ("train", "canary") or plan.vote is not None:
        raise ValueError("groups in a plan that trains, without votes")
    if plan.on_sum is not None:
        raise ValueError("each site's own noise in a plan with groups: noise on the sum would have to be whole in each")
    if plan.rounds % groups.count:
        raise ValueError(f"as many rounds for each of {groups.count} groups")
    if groups.smallest < plan.minimum_cohort:
        raise ValueError(f"groups of at least minimum_cohort={plan.minimum_cohort} sites, not {groups.smallest}")


def of_one_site(plan: Plan) -> Plan:
    """Give the plan as one site lives through it: the rounds of its group and no others."""
    return plan if plan.groups is None else replace(plan, rounds=plan.queries, groups=None)
