"""How many sites it takes: the numbers on which the secrecy of one update rests.

Specification: PROTOCOL.md section 4, with the reasons.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Floors:
    """What a site insists on."""

    minimum_cohort: int
    """Fewest sites in a roster and in a sum."""
    minimum_honest: int
    """Fewest sites of a sum that remain when `corrupt_tolerance` of them work with the coordinator."""
    corrupt_tolerance: int
    """Most sites of the run that may work with the coordinator."""

    def stricter(self, other: Floors) -> Floors:
        """Take the higher number of each kind."""
        return Floors(
            minimum_cohort=max(self.minimum_cohort, other.minimum_cohort),
            minimum_honest=max(self.minimum_honest, other.minimum_honest),
            corrupt_tolerance=max(self.corrupt_tolerance, other.corrupt_tolerance),
        )


def default_tolerance(sites: int) -> int:
    """Most corrupt sites assumed where the charter says nothing: the largest number below a third."""
    return (sites - 1) // 3


def quorum(*, roster: int, corrupt: int) -> int:
    """Fewest equal confirmations that open a sum.

    Guarantees:
        - two different survivor sets cannot both be confirmed, because that would take more than `corrupt` sites
          that sign twice.
    """
    return (roster + corrupt) // 2 + 1


def share_threshold(*, roster: int, corrupt: int) -> int:
    """Shares that give a round secret back.

    Guarantees:
        - `corrupt` holders alone cannot, and no two disjoint groups of holders both can;
        - for two sites it is 1: each is the other's only holder.
    """
    if roster == 2:
        return 1
    return max(2, corrupt + 1, (roster - 1) // 2 + 1)


def smallest_sum(*, roster: int, floors: Floors) -> int:
    """Fewest survivors whose sum may be opened."""
    corrupt = floors.corrupt_tolerance
    return max(
        quorum(roster=roster, corrupt=corrupt),
        corrupt + floors.minimum_honest,
        floors.minimum_cohort,
        # Each survivor's own secret is rebuilt from the other survivors.
        share_threshold(roster=roster, corrupt=corrupt) + 1,
    )


def smallest_of_all(floors: Floors, *, plan_minimum: int, members: int) -> int:
    """Fewest sites that any sum of a run may hold: a sum over the smallest roster."""
    roster = smallest_roster(floors, plan_minimum=plan_minimum, members=members)
    return max(smallest_sum(roster=roster, floors=floors), plan_minimum)


def smallest_roster(floors: Floors, *, plan_minimum: int, members: int) -> int:
    """Fewest READY sites that a sum can come of; more than there are, if none can."""
    for size in range(1, members + 1):
        if size >= max(floors.minimum_cohort, plan_minimum, smallest_sum(roster=size, floors=floors)):
            return size
    return members + 1
