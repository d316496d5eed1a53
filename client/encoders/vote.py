"""Answers the rounds that vote: does the adapter after a round do worse than the one before it, on records of its own?

Covers: one number leaves, the bounded sum of the votes of records that the site keeps for testing, with the plan's
noise; of a patient one record votes, drawn anew each time. What each record scored is told to nobody.
Does not cover: that the test records are not among those that were trained on, which is the site's business; they are
paid from the same holding, so that overlap costs no more privacy than is recorded.

N records that vote.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from partsong.client.data.encode import Encoded
from partsong.client.dp.release import noisy
from partsong.client.encoders.asked import chosen_records
from partsong.client.encoders.encoder import Encoder, LocalRound, LocalUpdate, Progress
from partsong.client.encoders.evaluation import learned_tokens
from partsong.client.model.host import ModelHost
from partsong.client.rules.consent import Facts, NotAgreed
from partsong.client.training.train import score
from partsong.common.plan import Plan
from partsong.common.privacy.terms import DpPlan
from partsong.common.questions.counting import count


@dataclass(frozen=True, kw_only=True, slots=True)
class Booth:
    """What a site votes with."""

    host: ModelHost
    encoded: Encoded
    """Its test records."""


class Voting:
    """The encoder of plans with votes: trains in one round, votes in the next."""

    resumes = True

    def __init__(self, training: Encoder, booth: Booth) -> None:
        """Read nothing yet.

        Args:
            training: answers the rounds that train.
            booth: what the others are answered with.
        """
        self._training, self._booth = training, booth

    def facts(self, plan: Plan) -> Facts:
        """Say what the site has to train with."""
        return self._training.facts(plan)

    def encode(self, asked: LocalRound) -> LocalUpdate:
        """Answer a round; a vote that broke off begins anew, since nothing of it was released. See `cast_votes`."""
        return cast_votes(self._booth, asked) if asked.plan.is_vote(asked.number) else self._training.encode(asked)


def cast_votes(booth: Booth, asked: LocalRound) -> LocalUpdate:
    """Score both adapters and give the noised sum of votes.

    Args:
        booth: model and test records of the site.
        asked: the query of a round that votes.
    Raises:
        NotAgreed: `data`: there are no test records, or they do not say whose they are; no vote was counted.
        Refused: a repeatable draw of patients under differential privacy.
    """
    plan = asked.plan
    if plan.vote is None:
        raise AssertionError("only a plan with votes has rounds that vote")
    dp = None if plan.dp is None else _one_each(plan.dp)
    chosen_N = chosen_records([record.unit for record in booth.encoded.records], dp, asked.randomness)
    _require_records(chosen_N.size, dp)
    records = [booth.encoded.records[i] for i in chosen_N]
    booth.host.put(asked.frozen_F, trained=False)
    losses = []
    for step, adapter_P in enumerate(np.split(asked.adapter_P, 2), start=1):
        booth.host.put(adapter_P)
        losses.append(score(booth.host, records, batch_size=plan.training.per_device_eval_batch_size).loss_N)
        asked.on_step(Progress(step=step, steps=2, local_loss=float(losses[-1].mean())))
    votes = torch.tensor([count(plan.vote, *losses)], dtype=torch.float64)
    if dp is not None and plan.vote.noise_multiplier is not None:
        votes = noisy(votes, std=plan.vote.noise_multiplier, kind=dp.noise)
    return LocalUpdate(
        update_P=votes.numpy().astype(np.float32),
        loss=0.0,  # a constant: it says nothing, so it needs no noise
        visits=2 * len(records),
        tokens=2 * sum(map(learned_tokens, records)),
        nonfinite=int((~np.isfinite(losses)).sum()),
        events=() if dp is None else plan.releases(first=2, last=2),
    )


def _one_each(dp: DpPlan) -> DpPlan:
    """Terms under which a patient has one record, whatever a step of training takes of it."""
    return dp if dp.contribution_bound is None else replace(dp, contribution_bound=1)


def _require_records(units: int, dp: DpPlan | None) -> None:
    if units == 0:
        raise NotAgreed("data", "no records are kept for testing here", rule="data.held_out")
    if dp is not None and dp.delta * units >= 1:
        raise NotAgreed("policy", f"delta is not below 1 / number of {dp.unit}s kept for testing", rule="delta")
