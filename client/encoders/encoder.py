"""What a site asks of an encoder. Knows no torch, so that a site that trains nothing never loads it.

Shape letters: P trained and F frozen adapter parameters; of an update, those that its round trains.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from partsong.client.dp.sampler import Randomness
from partsong.client.encoders.halfway import Bookmark, NoBookmark
from partsong.client.rules.consent import Facts
from partsong.common.adapters.adapter import FloatVec
from partsong.common.plan import Plan
from partsong.common.privacy.accounting import StepEvents


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """Where a local round stands. Shown at the site only."""

    step: int
    steps: int
    local_loss: float
    """Mean of the drawn units' losses, without noise: never sent."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LocalUpdate:
    """What a round of local work gives. Never leaves a site unsealed."""

    update_P: FloatVec
    """New minus old values of what the round trains [weight units]. Under noise on the sum: the exact sum of the
    clipped gradients, which gets its noise when it is sealed."""
    loss: float
    """Under differential privacy the mean over the steps of the clipped and noised loss, empty samples included.
    Otherwise the mean over the drawn records; 0 if none was drawn. Under noise on the sum: the exact sum of the
    clipped losses."""
    visits: int
    """Records drawn, with repetition. Local."""
    tokens: int
    """Tokens of those records. Local."""
    nonfinite: int
    """Units whose gradient was not finite and counted as zero. Local."""
    events: tuple[StepEvents, ...]
    """What the accountant recorded, step by step, without the cut of samples; empty without privacy."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False, repr=False)
class LocalRound:
    """One round's query, as an encoder gets it."""

    plan: Plan
    """That was agreed to, and paid for."""
    number: int
    """Of the round."""
    frozen_F: FloatVec
    """The adapter's frozen part."""
    adapter_P: FloatVec
    """The global adapter of the round, not the one of the bookmark. In a round that votes: (2P,), the adapter before
    the round that is voted on, and behind it the one after it."""
    randomness: Randomness
    """Of the samples; a repeatable one stands at its beginning."""
    on_step: Callable[[Progress], None]
    """Told after every step, at the site."""
    bookmark: Bookmark = field(default_factory=NoBookmark)
    """Of this very query; only read by an encoder that resumes."""


class Encoder(Protocol):
    """Turns a site's records into the vector that a plan asks for."""

    @property
    def resumes(self) -> bool:
        """Whether it goes on from a bookmark: what was released before that is not released again, and its events are
        in the result.
        """
        ...

    def facts(self, plan: Plan) -> Facts:
        """Say what the site has to answer this plan with. Counts records; reads none."""
        ...

    def encode(self, asked: LocalRound) -> LocalUpdate:
        """Answer one round's query.

        Args:
            asked: the query.
        Raises:
            PartsongError: there is no usable answer; nothing of it is kept.
        """
        ...
