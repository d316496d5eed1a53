"""The committee of share holders: how large, how drawn, and what the numbers promise."""

import hashlib
from fractions import Fraction
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partsong.common.secure_sum.committee import ALL_HOLD_UP_TO, draw, holders_of, smallest_committee
from partsong.common.thresholds import default_tolerance, share_threshold

LEAK, STUCK = Fraction(1, 2**40), Fraction(1, 2**20)


def chance_of(marked: int, *, sites: int, drawn: int, at_least: int) -> Fraction:
    """Chance that a draw holds so many marked sites, by counting the draws one by one in the other order."""
    below = sum(comb(drawn, k) * comb(sites - drawn, marked - k) for k in range(min(at_least, marked + 1)))
    return 1 - Fraction(below, comb(sites, marked))


def keeps_its_bounds(sites: int, corrupt: int, silent: int, holders: int, threshold: int, without_owner: int) -> bool:
    leak = chance_of(corrupt, sites=sites, drawn=holders, at_least=threshold)
    stuck = chance_of(silent, sites=sites, drawn=holders, at_least=holders - without_owner - threshold + 1)
    return sites * leak <= LEAK and sites * stuck <= STUCK and 2 * threshold > holders


@pytest.mark.parametrize(
    ("sites", "silent", "owner_keeps", "owner_has_none"),
    [
        (101, 10, (42, 32), (44, 32)),
        (128, 12, (48, 36), (50, 37)),
        (256, 25, (72, 52), (74, 52)),
        (500, 50, (90, 64), (92, 65)),
        (1000, 100, (102, 72), (106, 74)),
        (1000, 200, (162, 100), (166, 102)),
    ],
)
def test_the_figures_of_the_specification(
    sites: int, silent: int, owner_keeps: tuple[int, int], owner_has_none: tuple[int, int]
) -> None:
    """With a third of the sites corrupt; the owner of a seed holding a share of it, and as it is, without one."""
    third = sites // 3

    assert smallest_committee(sites=sites, corrupt=third, dropped=silent, without_owner=0) == owner_keeps
    assert smallest_committee(sites=sites, corrupt=third, dropped=silent) == owner_has_none


def test_a_larger_committee_than_the_smallest_keeps_the_bounds_too() -> None:
    """62 of 128 with threshold 41, which the first sketch named."""
    assert keeps_its_bounds(128, 42, 12, 62, 41, 0)
    assert not keeps_its_bounds(128, 42, 12, 46, 36, 0)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_the_committee_keeps_its_bounds_and_two_holders_less_do_not(data: st.DataObject) -> None:
    """By exact sums in the other direction, for any run; with the next smaller even size no threshold would do."""
    sites = data.draw(st.integers(8, 400), label="sites")
    corrupt = data.draw(st.integers(0, sites // 2), label="corrupt")
    silent = data.draw(st.integers(0, sites // 4), label="silent")

    chosen = smallest_committee(sites=sites, corrupt=corrupt, dropped=silent)

    last = sites if chosen is None else chosen[0]
    assert chosen is None or keeps_its_bounds(sites, corrupt, silent, *chosen, 1)
    smaller = last - 2 if chosen is not None else last - 1 - (last - 1) % 2
    assert not any(keeps_its_bounds(sites, corrupt, silent, smaller, t, 1) for t in range(2, smaller + 1))


def test_the_chances_are_those_of_draws_that_are_made() -> None:
    """A hundred thousand simulated draws of 44 of 101: as often with at least 20 corrupt as the sum says, within 4 sd."""
    rng = np.random.default_rng(1)
    expected = float(chance_of(33, sites=101, drawn=44, at_least=18))

    hits = rng.hypergeometric(33, 101 - 33, 44, size=100_000) >= 18

    assert abs(hits.mean() - expected) < 4 * np.sqrt(expected * (1 - expected) / hits.size)


@pytest.mark.parametrize(("among", "even"), [(66, True), (60, False)])
def test_the_draw_is_even(among: int, *, even: bool) -> None:
    """Over two thousand runs each of 66 members is drawn as often as any other, within 5 sd; drawn among 60 it is not."""
    runs, times = 2000, np.zeros(66)
    for run in range(runs):
        times[list(draw(run.to_bytes(32, "big"), tuple(range(among)), holders=30))] += 1

    deviation = np.sqrt(runs * 30 / 66 * 36 / 66)
    assert (abs(times - runs * 30 / 66) < 5 * deviation).all() == even


def test_the_draw_is_the_one_of_the_specification() -> None:
    """The members with the smallest hashes of framed label, run and number, computed by hand; and one draw that is frozen."""

    def by_hand(setup: bytes, site: int) -> bytes:
        parts = (b"partsong/1 committee", setup, site.to_bytes(4, "big"))
        return hashlib.sha256(b"".join(len(part).to_bytes(8, "big") + part for part in parts)).digest()

    members = tuple(range(0, 140, 2))
    for setup in (bytes(32), b"\xff" * 32):
        expected = sorted(members, key=lambda site: by_hand(setup, site))[:32]
        assert draw(setup, members, holders=32) == frozenset(expected)
    assert sorted(draw(bytes(32), tuple(range(66)), holders=4)) == [0, 19, 23, 25]


def test_every_member_s_nonce_moves_the_draw() -> None:
    """Another name of the run is another committee; the same one is the same at every site."""
    members = tuple(range(100))

    assert draw(bytes(32), members, holders=44) == draw(bytes(32), members, holders=44)
    assert len({draw(bytes([i]) * 32, members, holders=44) for i in range(20)}) == 20


@settings(max_examples=50, deadline=None)
@given(
    sites=st.integers(ALL_HOLD_UP_TO + 1, 90),
    left_out=st.sets(st.integers(0, 89)),
    setup=st.binary(min_size=32, max_size=32),
)
def test_leaving_sites_out_of_a_roster_adds_no_holder(sites: int, left_out: set[int], setup: bytes) -> None:
    """Whatever roster the coordinator puts together: no new holder, and the same threshold."""
    members = tuple(range(sites))
    everyone = holders_of(setup=setup, members=members, corrupt=default_tolerance(sites), roster=members)
    roster = [site for site in members if site not in left_out]

    fewer = holders_of(setup=setup, members=members, corrupt=default_tolerance(sites), roster=roster)

    assert fewer.threshold == everyone.threshold
    assert fewer.sites == tuple(site for site in everyone.sites if site not in left_out)


@pytest.mark.parametrize("sites", [2, 3, 5, 63, 64])
def test_up_to_64_members_everyone_in_the_roster_holds_shares(sites: int) -> None:
    """With the threshold of the roster, as before there were committees."""
    corrupt = default_tolerance(sites) if sites > 2 else 0

    for roster in (tuple(range(sites)), tuple(range(1, sites))):
        holders = holders_of(setup=bytes(32), members=tuple(range(sites)), corrupt=corrupt, roster=roster)
        assert holders.sites == roster
        assert holders.threshold == share_threshold(roster=len(roster), corrupt=corrupt)


def test_the_committee_begins_at_65_members_not_at_65_in_a_roster() -> None:
    """A roster of 60 in a run of 65 keeps the run's committee."""
    holders = holders_of(setup=bytes(32), members=tuple(range(65)), corrupt=21, roster=range(60))

    assert holders.threshold == smallest_committee(sites=65, corrupt=21)[1]
    assert len(holders.sites) < 60


def test_where_no_committee_would_do_all_members_hold_shares() -> None:
    """With sixty of 66 sites corrupt no draw is safe; the threshold alone is."""
    assert smallest_committee(sites=66, corrupt=60) is None
    holders = holders_of(setup=bytes(32), members=tuple(range(66)), corrupt=60, roster=range(66))

    assert holders.sites == tuple(range(66))
    assert holders.threshold == 61
