"""The secure sum of a run, at the coordinator: keys, rounds, recovery and the check at the end."""

from collections.abc import Callable

from wiring import Wired

Make = Callable[..., Wired]


def test_a_run_gives_exact_sums_and_every_site_finds_them_right(wired: Make) -> None:
    """Three rounds, bit by bit what the sites sealed; the control is another sum."""
    made = wired()

    made.play(to=3)

    assert [made.is_exact(n) for n in (1, 2, 3)] == [True] * 3
    assert made.checked == ("a", "b", "c", "d", "e")
    made.outcomes[3] = made.outcomes[2]
    assert not made.is_exact(3)
