"""The accountant that Opacus calls at every step: privacy loss distributions under the name `pld`."""

from __future__ import annotations

from typing import Any

from opacus.accountants import create_accountant, register_accountant
from opacus.accountants.accountant import IAccountant

from partsong.client.dp.guards import refuse_choice
from partsong.common.privacy.accounting import StepEvents, epsilon


class PldAccountant(IAccountant):  # type: ignore[misc]  # opacus ships no types
    """Records each step's noise and rate; epsilon is computed by `partsong.common.privacy.accounting`.

    `history`, `state_dict` and `load_state_dict` are Opacus' own.
    """

    def __init__(self) -> None:
        self.history: list[tuple[float, float, int]] = []

    def step(self, *, noise_multiplier: float, sample_rate: float) -> None:
        """Record one optimizer step."""
        if self.history and self.history[-1][:2] == (noise_multiplier, sample_rate):
            self.history[-1] = (noise_multiplier, sample_rate, self.history[-1][2] + 1)
        else:
            self.history.append((noise_multiplier, sample_rate, 1))

    @property
    def events(self) -> tuple[StepEvents, ...]:
        """All steps so far, equal neighbours merged."""
        return tuple(StepEvents(sampling_rate=q, noise_multiplier=s, steps=n) for s, q, n in self.history)

    def get_epsilon(self, delta: float, *_: Any, **__: Any) -> float:
        """Compose all steps so far."""
        return epsilon(self.events, delta=delta).epsilon

    def __len__(self) -> int:
        """Count the steps, not the segments of the history."""
        return sum(steps for _, _, steps in self.history)

    @classmethod
    def mechanism(cls) -> str:
        """Name under which Opacus knows it."""
        return "pld"


def make_accountant(name: str = "pld") -> PldAccountant:
    """Register the accountant with Opacus and make one.

    Raises:
        Refused: `gdp_accountant`, for the approximation that is not a bound.
        ValueError: for any name other than `pld`.
    """
    refuse_choice(name)
    if name != PldAccountant.mechanism():
        raise ValueError(f"accountant pld, not {name}")
    register_accountant(name, PldAccountant, force=True)
    accountant = create_accountant(name)
    assert isinstance(accountant, PldAccountant)  # noqa: S101 - registered one line above
    return accountant
