"""The learning rate over the rounds of a run."""

import pytest

from partsong.common.config import TrainingConfig
from partsong.common.rates import learning_rate


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [("constant", [2.0, 2.0, 2.0, 2.0]), ("linear", [2.0, 1.5, 1.0, 0.5]), ("cosine", [2.0, 1.7071, 1.0, 0.2929])],
)
def test_a_schedule_falls_from_the_full_rate_and_stays_above_zero(schedule: str, expected: list[float]) -> None:
    """Four rounds, by hand."""
    training = TrainingConfig(learning_rate=2.0, lr_scheduler_type=schedule)

    rates = [learning_rate(training, number=n, rounds=4) for n in (1, 2, 3, 4)]

    assert rates == pytest.approx(expected, abs=1e-4)
    assert min(rates) > 0
