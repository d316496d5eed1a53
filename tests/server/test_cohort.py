"""Who is asked in a round follows from the plan, and everybody has a turn."""

from collections import Counter

import pytest

from partsong.server.cohort import cohort_of

NAMES = tuple(f"s{i:03}" for i in range(100))


def test_a_draw_can_be_repeated_by_anybody_who_has_the_plan() -> None:
    """In whatever order the names come; another round or plan draws others."""
    drawn = cohort_of(NAMES, plan_sha256="p", number=1, size=10)

    assert drawn == cohort_of(reversed(NAMES), plan_sha256="p", number=1, size=10)
    assert drawn == tuple(sorted(set(drawn)))
    assert len(drawn) == 10
    assert drawn != cohort_of(NAMES, plan_sha256="p", number=2, size=10)
    assert drawn != cohort_of(NAMES, plan_sha256="q", number=1, size=10)


def test_every_site_is_drawn_about_equally_often() -> None:
    """Five standard deviations around the mean of 2000 rounds."""
    turns = Counter(n for r in range(2000) for n in cohort_of(NAMES, plan_sha256="p", number=r, size=10))
    assert set(turns) == set(NAMES)
    assert all(abs(count - 200) < 5 * 13.5 for count in turns.values())


@pytest.mark.parametrize("size", [100, 101])
def test_a_sample_as_large_as_all_is_all(size: int) -> None:
    """Nobody is asked twice."""
    assert cohort_of(NAMES, plan_sha256="p", number=1, size=size) == NAMES
