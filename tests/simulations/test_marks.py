"""A run says what it does not protect."""

from collections.abc import Callable

from partsong.common.config import SimulationConfig
from partsong.simulations.marks import NOT_PRIVATE, ONE_PROCESS, SEEDED, SUM_ONLY, UNMASKED, marks

Configure = Callable[..., SimulationConfig]


def test_each_mark_follows_from_the_configuration(configured: Configure) -> None:
    """The most serious first; the one that holds for every simulation always."""
    private = ("privacy=dp", "seed=null")

    assert marks(configured()) == (NOT_PRIVATE, SEEDED, ONE_PROCESS)
    assert marks(configured("seed=null", "secure_sum=off")) == (NOT_PRIVATE, UNMASKED, ONE_PROCESS)
    assert marks(configured(*private)) == (ONE_PROCESS,)
    assert marks(configured(*private, "secure_sum=off")) == (UNMASKED, ONE_PROCESS)
    assert marks(configured(*private, "secure_sum=sum-only")) == (SUM_ONLY, ONE_PROCESS)
