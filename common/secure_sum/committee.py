"""Who holds the shares of a round's seeds: everyone in a small run, a committee that the beacon draws in a large one.

Covers: nobody chooses the committee, because every member's nonce goes into the draw and is committed to before the
first is shown; a draw in which corrupt holders alone reach the threshold has a chance below 2**-40, also for a
coordinator that sets up as many runs as it has sites, and uses the one it likes best.
Does not cover: sites that become corrupt once they know that they were drawn; more corrupt sites than the charter's.

The committee belongs to the run, not to a round. A draw among the sites of a round would let the coordinator leave
honest sites out of the roster until the draw suits it; here a site that is left out is a holder less, which delays
a sum and opens nothing.

Specification: PROTOCOL.md section 4.
Source: hypergeometric tails, computed exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import comb

from partsong.common.derive import digest, number
from partsong.common.thresholds import share_threshold

ALL_HOLD_UP_TO = 64
"""Largest run in which every member holds shares."""
LEAK_BITS = 40
STUCK_BITS = 20
DROPPED_OF = 10
"""One member in this many may fall silent in a round."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Holders:
    """The sites of one roster that hold shares."""

    sites: tuple[int, ...]
    threshold: int
    """Shares that give a seed back. A seed's owner has none of it."""


def holders_of(*, setup: bytes, members: tuple[int, ...], corrupt: int, roster: Sequence[int]) -> Holders:
    """Give the holders of a round.

    Guarantees:
        - depends on the run and the roster alone; a roster takes holders away and never adds one.
    Args:
        setup: 32 bytes that name the run, the hash of every member's nonce.
        members: of the run.
        corrupt: tolerance of the charter.
        roster: of the round.
    """
    size = smallest_committee(sites=len(members), corrupt=corrupt) if len(members) > ALL_HOLD_UP_TO else None
    if size is None:
        return Holders(sites=tuple(roster), threshold=share_threshold(roster=len(roster), corrupt=corrupt))
    drawn = draw(setup, members, holders=size[0])
    return Holders(sites=tuple(site for site in roster if site in drawn), threshold=size[1])


@lru_cache(maxsize=8)
def draw(setup: bytes, members: tuple[int, ...], *, holders: int) -> frozenset[int]:
    """Draw a committee: the members with the smallest digests of the run's name and their number."""
    return frozenset(sorted(members, key=lambda site: digest("committee", setup, number(site)))[:holders])


@lru_cache(maxsize=32)
def smallest_committee(
    *, sites: int, corrupt: int, dropped: int | None = None, without_owner: int = 1
) -> tuple[int, int] | None:
    """Choose how many of the members hold shares, and how many shares give a seed back.

    Guarantees, for a uniform draw:
        - the chance that corrupt holders reach the threshold is at most 2**-40 / `sites`;
        - the chance that too few holders answer is at most 2**-20 / `sites`, when `dropped` sites fall silent that
          were chosen without knowing the draw;
        - no two disjoint groups of holders both reach the threshold.
        The bounds are divided by `sites` for repetition: over as many set-ups, or rounds, as there are sites the whole
        chance is 2**-40, or 2**-20.
    Args:
        sites: members of the run.
        corrupt: of them may work with the coordinator.
        dropped: of them fall silent; None takes a tenth.
        without_owner: holders that are missing because they own the seed; 0 where an owner keeps a share itself.
    Returns:
        an even number of holders, the smallest that does, and the threshold; None where only all members would do.
    """
    silent = sites // DROPPED_OF if dropped is None else dropped
    for holders in range(2, sites, 2):
        leaks_from = _rare_from(sites=sites, marked=corrupt, drawn=holders, bits=LEAK_BITS)
        stuck_from = _rare_from(sites=sites, marked=silent, drawn=holders, bits=STUCK_BITS)
        threshold = max(2, leaks_from, holders // 2 + 1)
        if holders - without_owner - threshold >= stuck_from - 1:
            return holders, threshold
    return None


def _rare_from(*, sites: int, marked: int, drawn: int, bits: int) -> int:
    """Give the smallest number of marked sites that a draw holds, or exceeds, with chance 2**-bits / sites at most."""
    ways, total = 0, comb(sites, drawn)
    for held in range(min(marked, drawn), -1, -1):
        ways += comb(marked, held) * comb(sites - marked, drawn - held)
        if ways * sites << bits > total:
            return held + 1
    return 0
