"""The privacy terms of a plan: what is hidden, by how much noise, and whose noise it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from partsong.common.privacy.accounting import LOWEST_NOISE, StepEvents, Unit, joint_multiplier, on_grid

MOST_STEPS = 1_000_000
"""Of a whole run. The accountant needs ten seconds for as many, and it runs before a site has agreed to anything."""
_LARGEST = 1e15
"""Far inside float32's range; what `fixed_point.Block` takes as a clip."""


def require_within(above: float, most: float, **values: float) -> None:
    """Refuse a value that is not above `above` and at most `most`, by its name."""
    for name, value in values.items():
        if not above < value <= most:
            raise ValueError(f"{name} above {above:g} and at most {most:g}, not {value}")


@dataclass(frozen=True, kw_only=True, slots=True)
class SumNoise:
    """Noise that the sites of a sum bring together: each adds a share, and no share is enough by itself."""

    minimum_sum: int
    """Fewest sites in a sum, u: each site refuses to confirm fewer."""
    colluders: int
    """Sites that may tell the coordinator their own shares, a; at least 1, since every site knows its own."""
    expected_batch: float
    """Public number of units that a sum is divided by, in place of the number that nobody may know."""

    def __post_init__(self) -> None:
        if not 1 <= self.colluders < self.minimum_sum:
            raise ValueError("colluders of at least 1 and below minimum_sum")
        require_within(0, _LARGEST, expected_batch=self.expected_batch)

    @property
    def shares(self) -> int:
        """Shares that make up the whole noise, u - a; with 1 each site's own share is the whole."""
        return self.minimum_sum - self.colluders


@dataclass(frozen=True, kw_only=True, slots=True)
class DpPlan:
    """The privacy terms: the same at every site, and the same in every round."""

    unit: Unit
    """Whose presence is hidden: what is sampled and clipped as a whole."""
    contribution_bound: int | None
    """Most records of one patient in a step; None where records are the unit."""
    epsilon: float
    """Of the whole plan at one site, for add-or-remove-one-unit neighbours."""
    delta: float
    sampling_rate: float
    """Of units."""
    clip_norm: float
    """L2 bound of one unit's gradient."""
    clipping: Literal["abadi", "autos"]
    noise_multiplier: float
    loss_clip: float
    loss_noise_multiplier: float
    engine: Literal["hooks", "flat"]
    noise: Literal["gaussian", "discrete"]
    on_sum: SumNoise | None = None
    """Where the noise multipliers are those of a sum, as whoever knows `colluders` shares sees it. None: each site's
    own noise is the whole."""

    def __post_init__(self) -> None:
        if self.on_sum is not None and self.noise != "discrete":
            raise ValueError("noise=discrete on a sum")
        if (self.unit == "patient") != (self.contribution_bound is not None):
            raise ValueError("a contribution_bound for patients, none for records")
        require_within(0, MOST_STEPS, **({} if self.contribution_bound is None else {"bound": self.contribution_bound}))
        require_within(0, _LARGEST, epsilon=self.epsilon, clip_norm=self.clip_norm, loss_clip=self.loss_clip)
        require_within(0, 1, sampling_rate=self.sampling_rate)
        if not 0 < self.delta < 1:
            raise ValueError(f"delta above 0 and below 1, not {self.delta}")
        if not min(self.noise_multiplier, self.loss_noise_multiplier) >= LOWEST_NOISE:
            raise ValueError(f"noise multipliers of at least {LOWEST_NOISE}")
        require_within(
            0, _LARGEST, noise_multiplier=self.noise_multiplier, loss_noise_multiplier=self.loss_noise_multiplier
        )

    def events(self, *, steps: int, size: int) -> StepEvents:
        """Give what a number of steps with a site's own noise releases, as the accountant sees it.

        Args:
            steps: >= 1.
            size: number of trained parameters; rounding them to the grid of discrete noise counts.
        """
        gradient, loss = self.noise_multiplier, self.loss_noise_multiplier
        if self.noise == "discrete":
            gradient, loss = on_grid(gradient, size=size), on_grid(loss, size=1)
        return StepEvents(
            sampling_rate=self.sampling_rate,
            noise_multiplier=joint_multiplier(gradient, loss),
            steps=steps,
            unit=self.unit,
        )
