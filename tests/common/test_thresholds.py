"""The numbers: what is promised of quorum and threshold, for every size."""

import pytest

from partsong.common.thresholds import Floors, default_tolerance, quorum, share_threshold, smallest_of_all, smallest_sum

SIZES = [(n, c) for n in range(2, 65) for c in range(n // 2)]


def floors(sites: int, *, honest: int = 3, corrupt: int | None = None) -> Floors:
    tolerance = default_tolerance(sites) if corrupt is None else corrupt
    return Floors(minimum_cohort=min(3, sites), minimum_honest=honest, corrupt_tolerance=tolerance)


@pytest.mark.parametrize(
    ("sites", "corrupt", "needed", "threshold", "smallest"),
    [(3, 0, 2, 2, 3), (4, 1, 3, 2, 4), (5, 1, 4, 3, 4), (10, 3, 7, 5, 7), (64, 21, 43, 32, 43)],
)
def test_the_numbers_at_the_defaults(sites: int, corrupt: int, needed: int, threshold: int, smallest: int) -> None:
    """The table of the specification."""
    assert default_tolerance(sites) == corrupt
    assert quorum(roster=sites, corrupt=corrupt) == needed
    assert share_threshold(roster=sites, corrupt=corrupt) == threshold
    assert smallest_sum(roster=sites, floors=floors(sites)) == smallest


@pytest.mark.parametrize(("sites", "smallest"), [(3, 3), (4, 4), (5, 4), (10, 6), (64, 24)])
def test_the_smallest_sum_of_a_run_is_that_of_its_smallest_roster(sites: int, smallest: int) -> None:
    """By trying every roster that may be: a sum over a whole roster takes more than one over what is left of it."""
    at_defaults = floors(sites)
    by_roster = {n: smallest_sum(roster=n, floors=at_defaults) for n in range(1, sites + 1)}

    found = smallest_of_all(at_defaults, plan_minimum=0, members=sites)

    assert found == min(fewest for n, fewest in by_roster.items() if fewest <= n) == smallest
    assert smallest_of_all(at_defaults, plan_minimum=sites, members=sites) == sites


def test_five_is_the_smallest_cohort_that_survives_a_dropout() -> None:
    """At the defaults; four does with minimum_honest=2."""
    spare = {n: n - smallest_sum(roster=n, floors=floors(n)) for n in (3, 4, 5)}

    assert spare == {3: 0, 4: 0, 5: 1}
    assert smallest_sum(roster=4, floors=floors(4, honest=2)) == 3


def test_two_quorums_need_more_double_signers_than_are_corrupt() -> None:
    """Overlap of two quorums exceeds the corrupt sites; one signature fewer would not do: the control."""
    for sites, corrupt in SIZES:
        needed = quorum(roster=sites, corrupt=corrupt)

        assert 2 * needed - sites > corrupt
        assert 2 * (needed - 1) - sites <= corrupt


def test_corrupt_holders_stay_below_the_threshold() -> None:
    """No coalition of tolerated size rebuilds a secret, and no two disjoint groups of holders both do."""
    for sites, corrupt in SIZES:
        threshold = share_threshold(roster=sites, corrupt=corrupt)

        assert threshold > corrupt
        assert sites == 2 or 2 * threshold > sites - 1
        assert sites == 2 or threshold >= 2


def test_the_stricter_floor_wins() -> None:
    """Charter and policy are combined number by number."""
    one = Floors(minimum_cohort=5, minimum_honest=2, corrupt_tolerance=1)
    two = Floors(minimum_cohort=3, minimum_honest=4, corrupt_tolerance=1)

    assert one.stricter(two) == Floors(minimum_cohort=5, minimum_honest=4, corrupt_tolerance=1)
