"""Whether joining pays: the joint adapter beside what this site gets alone, on its own test records.

Covers: nothing of it leaves the site. It has no door, no purse and no ledger: it takes records and gives figures to
whoever runs it there. They are exact and say things about records, so they are as secret as the records are.
Does not cover: what people do with the figures.

The two models that a site trains alone take as many steps, of as many records, as its part of the run had, from the
same start: one without privacy, one with the plan's noise. Both are thrown away.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from partsong.client.data.encode import Record
from partsong.client.dp.sampler import SystemRandomness
from partsong.client.model.host import ModelHost
from partsong.client.training.train import score, train_round
from partsong.common.adapters.adapter import FloatVec
from partsong.common.plan import Plan
from partsong.common.privacy.terms import DpPlan
from partsong.common.time_left import TimeLeft

ArmName = Literal["base", "joint", "alone", "alone_private"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Arm:
    """One model on the site's own test records. Secret."""

    name: ArmName
    loss: float
    """Mean over the records [nats]."""
    right: float
    """Share of records with the right class, or with every token right."""

    @property
    def words(self) -> str:
        """For people."""
        return f"{_WORDS[self.name]:34} loss {self.loss:.3f}, right {self.right:.1%}"


_WORDS: dict[ArmName, str] = {
    "base": "base model",
    "joint": "joint adapter",
    "alone": "alone, without privacy",
    "alone_private": "alone, with the plan's privacy",
}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Contest:
    """What is compared, and on what."""

    host: ModelHost
    plan: Plan
    """Of the run that trained the joint adapter."""
    training: Sequence[Record]
    test: Sequence[Record]
    frozen_F: FloatVec
    start_P: FloatVec
    joint_P: FloatVec


def compare(contest: Contest, *, say: Callable[[str], None] = lambda _: None) -> tuple[Arm, ...]:
    """Score the base model, the joint adapter, and what the site trains alone.

    Args:
        contest: host, plan and records; the host is left with another adapter than it came with.
        say: told what is going on.
    Raises:
        TrainingFailed: a model that was trained alone is useless; lower its learning rate.
    """
    return tuple(_arms(contest, say))


def _arms(contest: Contest, say: Callable[[str], None]) -> Iterator[Arm]:
    contest.host.put(contest.frozen_F, trained=False)
    yield _scored(contest, "base", contest.start_P)
    yield _scored(contest, "joint", contest.joint_P)
    say(f"training alone for {contest.plan.steps} steps, on this machine only")
    yield _scored(contest, "alone", _trained(contest, say, dp=None))
    if contest.plan.dp is not None:
        say("the same with the plan's privacy")
        yield _scored(contest, "alone_private", _trained(contest, say, dp=contest.plan.dp))


def _trained(contest: Contest, say: Callable[[str], None], *, dp: DpPlan | None) -> FloatVec:
    plan = contest.plan
    left = TimeLeft("steps alone", of=plan.steps, say=say)
    contest.host.put(contest.start_P)
    update = train_round(
        contest.host,
        contest.training,
        sampling_rate=plan.sampling_rate,
        training=replace(plan.training, steps_per_round=plan.steps),
        dp=dp,
        randomness=SystemRandomness(),
        on_step=lambda _: left.step(),
    )
    return contest.start_P + update.update_P


def _scored(contest: Contest, name: ArmName, adapter_P: FloatVec) -> Arm:
    contest.host.put(adapter_P)
    scores = score(contest.host, contest.test, batch_size=contest.plan.training.per_device_eval_batch_size)
    return Arm(name=name, loss=float(scores.loss_N.mean()), right=float(scores.hit_N.mean()))
