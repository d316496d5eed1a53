"""Answers a canary's queries without model, records or torch.

Covers: what is answered follows from plan, round and the site's name, all of which the coordinator knows; this object
is given nothing else, so it has nothing to leak. It costs no budget and needs no noise.
Does not cover: whether the plan is a canary (`partsong.client.rules.consent`).
"""

from __future__ import annotations

from partsong.client.encoders.encoder import LocalRound, LocalUpdate, Progress
from partsong.client.rules.consent import Facts
from partsong.common.canary import NO_MODEL, canary_update
from partsong.common.plan import Plan


class CanaryEncoder:
    """The encoder of canary queries."""

    resumes = False

    def __init__(self, *, site: str) -> None:
        """Answer as the site of this name."""
        self._site = site

    def facts(self, plan: Plan) -> Facts:
        """Say that there is no model and not one record."""
        return Facts(records=0, base_sha256=NO_MODEL, layout=plan.layout)

    def encode(self, asked: LocalRound) -> LocalUpdate:
        """Answer with the site's public numbers."""
        asked.on_step(Progress(step=1, steps=1, local_loss=0.0))
        update_P = canary_update(asked.plan, number=asked.number, site=self._site)
        return LocalUpdate(update_P=update_P, loss=0.0, visits=0, tokens=0, nonfinite=0, events=())
