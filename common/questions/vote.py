"""The vote on a round: whether the adapter that a sum has led to is kept, said by records that nobody trained on.

Covers: what one unit can add to the votes of its site, and one site that keeps to the plan to those of all, is bounded;
what a vote decides follows from the opened sum alone, so coordinator and sites come to the same
(`partsong.common.questions.counting`).
Does not cover: a site that breaks its own seal. Sealed votes add up unseen; what takes their sum past the most votes of
all sites together is found out, and less is not. One that only forges its vote
has its most votes, the room for its noise, and no more.
"""

from __future__ import annotations

from dataclasses import dataclass

MOST_VOTES = 1_000_000
_NOISE_SDS = 10.0
"""Room for noise beside the most votes of a site; more happens with a probability below 1e-22."""
FIELD_BITS = 32
"""Of a number that leaves: two numbers may be wide, so one step is far below a vote."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Vote:
    """How a round is voted on. In a plan with votes every second round votes on the one before it."""

    most_votes: int
    """A site's votes add up to at most this, and to no less than its negative."""
    margin: float
    """A loss may rise by this [nats] before a record votes against the new adapter."""
    scale: float
    """A loss that falls or rises by this much more [nats] is a whole vote; by less, a part of one."""
    noise_multiplier: float | None
    """Standard deviation of each site's noise / one vote. None: no differential privacy."""

    def __post_init__(self) -> None:
        if not 1 <= self.most_votes <= MOST_VOTES:
            raise ValueError(f"most_votes between 1 and {MOST_VOTES}, not {self.most_votes}")
        if not (0 <= self.margin <= 1e3 and 0 < self.scale <= 1e3):
            raise ValueError("a margin of at least 0 and a scale above 0, both at most 1000")
        if self.noise_multiplier is not None and not 0 < self.noise_multiplier <= 1e9:
            raise ValueError(f"a noise multiplier above 0, not {self.noise_multiplier}")

    @property
    def reach(self) -> float:
        """Bound what an honest site seals: its most votes, and noise."""
        return self.most_votes + _NOISE_SDS * (self.noise_multiplier or 0.0)
