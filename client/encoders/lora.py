"""Trains a LoRA adapter on the site's records, with or without differential privacy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from partsong.client.data.encode import Encoded, Record
from partsong.client.encoders.encoder import LocalRound, LocalUpdate
from partsong.client.encoders.halfway import NoBookmark
from partsong.client.encoders.rotation import turned_update
from partsong.client.model.any_rank import AnyRankHost
from partsong.client.model.host import ModelHost
from partsong.client.rules.consent import Facts
from partsong.client.training.lockstep import sum_gradients
from partsong.client.training.train import train_round
from partsong.common.adapters.adapter import FloatVec
from partsong.common.adapters.turns import Turn, specs_of
from partsong.common.config import TrainingConfig
from partsong.common.plan import Plan
from partsong.common.privacy.terms import DpPlan
from partsong.common.rates import step_rate


class LoraTraining:
    """The encoder of training queries."""

    resumes = True

    def __init__(self, *, host: ModelHost, encoded: Encoded, labels: tuple[str, ...], rank: int | None = None) -> None:
        """Hold model and records; nothing is read.

        Args:
            host: the resident base model; other sites of a simulation may share it.
            encoded: the site's records.
            labels: its closed list of classes.
            rank: that this site trains at where the method leaves it to the site; None: the plan's.
        """
        self._host, self._records, self._rank = host, encoded.records, rank
        self._facts = Facts(
            records=len(encoded.records),
            base_sha256=host.files.sha256,
            layout=host.layout,
            lora=host.lora_options,
            labels=labels,
            patients=encoded.count("patient"),
            max_length=encoded.report.max_length,
        )

    @property
    def records(self) -> Sequence[Record]:
        """The site's records, encoded."""
        return self._records

    def facts(self, plan: Plan) -> Facts:  # noqa: ARG002 - the model that is loaded is the same for every plan
        """Say what is installed here."""
        return self._facts

    def encode(self, asked: LocalRound) -> LocalUpdate:
        """Train for the steps of one round that are left; see `train_round` for guarantees and errors."""
        plan, bookmark = asked.plan, asked.bookmark
        if isinstance(self._host, AnyRankHost):
            self._host.choose(self._rank)
            bookmark = NoBookmark()  # which holds products, and no optimizer goes on from those
        self._host.put(asked.frozen_F, trained=False)
        self._host.put(asked.adapter_P)
        turn = plan.turn(asked.number)
        if plan.dp is not None and plan.dp.on_sum is not None:
            return self._sum(asked, plan.dp, turn)
        with self._host.only(specs_of(plan.layout, turn)):
            update = train_round(
                self._host,
                self._records,
                sampling_rate=plan.sampling_rate,
                training=terms_of_round(plan, number=asked.number),
                dp=_terms(plan.dp, turn),
                randomness=asked.randomness,
                on_step=asked.on_step,
                bookmark=bookmark,
            )
        if isinstance(self._host, AnyRankHost):  # what a smaller rank has cut off is part of what changed
            update = replace(update, update_P=self._host.take() - asked.adapter_P)
            self._host.choose(None)
        return turned(update, plan, number=asked.number, adapter_P=asked.adapter_P)

    def _sum(self, asked: LocalRound, dp: DpPlan, turn: Turn | None) -> LocalUpdate:
        """Answer a round of noise on the sum, which has no step to go on from: a broken one begins anew."""
        plan = asked.plan
        with self._host.only(specs_of(plan.layout, turn)):
            update = sum_gradients(
                self._host,
                self._records,
                training=plan.training,
                dp=_scaled(dp, turn),
                randomness=asked.randomness,
                on_step=asked.on_step,
            )
        return replace(update, events=(plan.events(steps=1),))


def turned(update: LocalUpdate, plan: Plan, *, number: int, adapter_P: FloatVec) -> LocalUpdate:
    """Turn what a site has learned in a round towards the global adapter, where the plan asks for it."""
    if plan.rotation == 0:
        return update
    turned_P = turned_update(
        update.update_P,
        adapter_P=adapter_P,
        layout=plan.layout,
        number=plan.training_number(number),
        how_far=plan.rotation,
    )
    return replace(update, update_P=turned_P)


def terms_of_round(plan: Plan, *, number: int) -> TrainingConfig:
    """Give the terms of training with the learning rate of a round."""
    return replace(plan.training, learning_rate=step_rate(plan, number=number))


def _terms(dp: DpPlan | None, turn: Turn | None) -> DpPlan | None:
    return None if dp is None else _scaled(dp, turn)


def _scaled(dp: DpPlan, turn: Turn | None) -> DpPlan:
    """Privacy terms of a turn: its own clip, and noise in proportion to it, so that the price stays."""
    return dp if turn is None else replace(dp, clip_norm=dp.clip_norm * turn.clip_norm)
