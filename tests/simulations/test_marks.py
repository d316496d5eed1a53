"""A run says what it does not protect."""

from collections.abc import Callable

from partsong.common.config import SimulationConfig
from partsong.simulations.marks import NOT_PRIVATE, ONE_PROCESS, SEEDED, UNMASKED, marks

Configure = Callable[..., SimulationConfig]


def test_each_mark_follows_from_the_configuration(configured: Configure) -> None:
    """The most serious first; the two that hold for every simulation always."""
    private = ("privacy=dp", "seed=null")

    assert marks(configured()) == (NOT_PRIVATE, SEEDED, UNMASKED, ONE_PROCESS)
    assert marks(configured("seed=null")) == (NOT_PRIVATE, UNMASKED, ONE_PROCESS)
    assert marks(configured(*private)) == (UNMASKED, ONE_PROCESS)
