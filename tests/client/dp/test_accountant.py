"""Opacus keeps the history, the accounting is ours."""

import opacus.accountants
import pytest

from partsong.client.dp.accountant import PldAccountant, make_accountant
from partsong.common.privacy.accounting import StepEvents, epsilon


def test_steps_are_merged_into_segments_in_order() -> None:
    """Equal neighbours become one event; the length counts steps."""
    accountant = make_accountant()

    for noise, rate in [(1.0, 0.1), (1.0, 0.1), (2.0, 0.1), (1.0, 0.1)]:
        accountant.step(noise_multiplier=noise, sample_rate=rate)

    assert [(e.noise_multiplier, e.steps) for e in accountant.events] == [(1.0, 2), (2.0, 1), (1.0, 1)]
    assert len(accountant) == 4


def test_epsilon_is_that_of_the_events() -> None:
    """Opacus asks through its own name and gets the composition."""
    accountant = make_accountant()
    for _ in range(10):
        accountant.step(noise_multiplier=1.0, sample_rate=0.05)

    asked = accountant.get_epsilon(1e-5)

    events = [StepEvents(sampling_rate=0.05, noise_multiplier=1.0, steps=10)]
    assert asked == epsilon(events, delta=1e-5).epsilon


def test_opacus_knows_it_by_name_and_restores_its_state() -> None:
    """A state written and read back gives the same events."""
    make_accountant().step(noise_multiplier=3.0, sample_rate=0.5)
    first = make_accountant()
    first.step(noise_multiplier=1.0, sample_rate=0.05)

    second = opacus.accountants.create_accountant("pld")
    second.load_state_dict(first.state_dict())

    assert isinstance(second, PldAccountant)
    assert second.events == first.events


def test_a_state_of_another_accountant_is_refused() -> None:
    """Opacus itself checks the mechanism's name."""
    with pytest.raises(ValueError, match="rdp"):
        make_accountant().load_state_dict(opacus.accountants.RDPAccountant().state_dict())
