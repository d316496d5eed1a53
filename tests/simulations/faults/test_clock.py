"""Time passes when it is told to, and some sites read it wrong."""

from partsong.simulations.faults.clock import VirtualClock


def test_time_goes_forward_only() -> None:
    """A moment that is over changes nothing."""
    clock = VirtualClock(base=lambda: 1000.0)

    clock.pass_to(1060.0)
    clock.pass_to(1030.0)

    assert clock() == 1060.0


def test_a_skewed_site_is_ahead_of_the_others() -> None:
    """Its clock alone, by what was said."""
    clock = VirtualClock(base=lambda: 1000.0)
    wrong, right = clock.of("a"), clock.of("b")

    clock.skew({"a": 5.0})
    clock.pass_to(1001.0)

    assert (wrong(), right(), clock()) == (1006.0, 1001.0, 1001.0)
