"""A site that poisons: it trains on wrong labels, sends a changed update, or votes for itself.

Covers: what a site can do that keeps to the protocol's messages and forges their contents. Its update still passes the
seal, which shortens it to the clip of the plan; `tests/common/secure_sum/test_length.py` has sums past the clips.
Does not cover: sites that work together on what they send.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from partsong.client.data.encode import Encoded
from partsong.client.encoders.encoder import Encoder, LocalRound, LocalUpdate
from partsong.client.rules.consent import Facts
from partsong.common.plan import Plan


@dataclass(frozen=True, kw_only=True, slots=True)
class Poison:
    """What a site does wrong."""

    flips_labels: bool = False
    """It trains with each label replaced by the next one."""
    factor: float = 1.0
    """Its update is multiplied by this before it is sealed; -1 turns it round."""
    forges_votes: bool = False
    """It votes for every round with all that its seal lets through."""


class Poisoner:
    """An encoder that changes what another one gives."""

    resumes = False

    def __init__(self, honest: Encoder, poison: Poison) -> None:
        """Wrap `honest`."""
        self._honest, self._poison = honest, poison

    def facts(self, plan: Plan) -> Facts:
        """Claim what the honest one claims."""
        return self._honest.facts(plan)

    def encode(self, asked: LocalRound) -> LocalUpdate:
        """Answer a round, wrongly."""
        found, plan = self._honest.encode(asked), asked.plan
        if plan.vote is not None and plan.is_vote(asked.number):
            forged = np.full(1, plan.vote.reach, np.float32)
            return dataclasses.replace(found, update_P=forged) if self._poison.forges_votes else found
        return dataclasses.replace(found, update_P=found.update_P * np.float32(self._poison.factor))


def flipped(encoded: Encoded, *, classes: int) -> Encoded:
    """Give records whose labels are each the next class.

    Args:
        encoded: of one site.
        classes: how many there are, >= 2.
    """
    records = tuple(dataclasses.replace(r, label=(r.label + 1) % classes) for r in encoded.records)
    return dataclasses.replace(encoded, records=records)
