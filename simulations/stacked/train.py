"""One round of several sites at once: each takes the steps that it would take alone, on a slice of stacked adapters.

Covers: plans without differential privacy. What a site draws, what its gradient is divided by and what its optimizer
    remembers are its own; no number of one site enters another's slice.
Does not cover: noise. Private steps clip each site's records and draw each site's noise by itself, and are refused.

S sites, N records of a pass, P trained adapter parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np
import torch

from partsong.client.data.batch import pad
from partsong.client.data.encode import Record
from partsong.client.dp.sampler import Randomness
from partsong.client.dp.tally import Tally
from partsong.client.encoders.encoder import LocalUpdate, Progress
from partsong.client.encoders.halfway import SoFar
from partsong.client.encoders.lora import terms_of_round, turned
from partsong.client.model.host import ModelHost
from partsong.client.training.passes import Pass, draw
from partsong.client.training.train import (
    TrainingFailed,
    finished,
    is_out_of_memory,
    let_go,
    no_room,
    optimizer_of,
    sampler_of,
)
from partsong.common.adapters.adapter import FloatVec
from partsong.common.adapters.turns import specs_of
from partsong.common.config import TrainingConfig
from partsong.common.errors import PartsongError, Refused
from partsong.common.plan import Plan
from partsong.simulations.stacked.layers import Stack, stacked

Outcome = LocalUpdate | PartsongError
"""What became of a site's round: its update, or why it has none."""
_Parts = list[tuple[int, Pass]]
"""Slices with what they have in a pass, in order."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Job:
    """What one site is asked for; see `Encoder.encode`."""

    plan: Plan
    number: int
    frozen_F: FloatVec
    adapter_P: FloatVec
    records: Sequence[Record]
    randomness: Randomness
    on_step: Callable[[Progress], None]


def train_together(host: ModelHost, jobs: Sequence[Job]) -> list[Outcome]:
    """Train several sites for one round, and give what became of each, in their order.

    Guarantees: to float tolerance what `LoraTraining.encode` gives each of them alone: the same samples, also empty
        ones, the same steps, the same statistics. A site whose numbers are not finite takes no other with it.
    Args:
        host: carries the global adapter afterwards.
        jobs: at least one; all of one plan and round, from the same adapter.
    Raises:
        ModelError: the model's trained layers cannot be stacked, or a single record does not fit into memory.
        Refused: `stacked_under_dp`: the plan has privacy terms; nothing was trained.
    """
    first = jobs[0]
    plan, number = first.plan, first.number
    if plan.dp is not None:
        raise Refused(
            "stacked_under_dp",
            reason="each site's records are clipped, and its noise is drawn, by the steps that it takes alone",
            remedy="engine.stacked=1",
        )
    host.put(first.frozen_F, trained=False)
    host.put(first.adapter_P)
    training = terms_of_round(plan, number=number)
    learners = [_Learner(job, rate=plan.sampling_rate) for job in jobs]
    with (
        host.only(specs_of(plan.layout, plan.turn(number))),
        host.training(),
        stacked(host.model, host.trainable(), sites=len(jobs)) as stack,
    ):
        before_P = host.take_selected()
        _Steps(host, learners, stack, training).take_all()
        after_SP = torch.cat([tensor.detach().float().flatten(1) for tensor in stack.tensors], dim=1).cpu().numpy()
    return [
        _outcome(learner, after_P - before_P, plan, number=number, adapter_P=first.adapter_P)
        for learner, after_P in zip(learners, after_SP, strict=True)
    ]


def _outcome(learner: _Learner, update_P: FloatVec, plan: Plan, *, number: int, adapter_P: FloatVec) -> Outcome:
    try:
        return turned(finished(update_P, learner.sums, events=()), plan, number=number, adapter_P=adapter_P)
    except TrainingFailed as err:
        return err


class _Learner:
    """One site's samples and sums."""

    def __init__(self, job: Job, *, rate: float) -> None:
        self.records, self._on_step = job.records, job.on_step
        self._sampler = sampler_of(job.records, rate, None, job.randomness)
        self._length_R = np.array([len(record.input_ids) for record in job.records])
        self.expected_batch = self._sampler.rate * self._sampler.size
        self.sums, self._tally = SoFar(), Tally(clip_norm=None)

    def draw(self, *, most: int, grouped: bool) -> list[Pass]:
        """Draw the sample of a step."""
        return draw(self._sampler, self._length_R, records=most, grouped=grouped)

    def add(self, loss_B: torch.Tensor) -> None:
        """Count the losses of a pass."""
        self._tally.add(loss_B, torch.zeros_like(loss_B), loss_B.isfinite())

    def close(self, passes: Sequence[Pass], *, steps: int) -> None:
        """Count a step, and tell the site of it."""
        found, before = self._tally.close(), self.sums
        self.sums = SoFar(
            step=before.step + 1,
            loss_sum=before.loss_sum + found.loss_mean * found.units,
            weight_sum=before.weight_sum + found.units,
            visits=before.visits + sum(map(len, passes)),
            tokens=before.tokens + sum(int(self._length_R[p.record_B].sum()) for p in passes),
            nonfinite=before.nonfinite + found.nonfinite_units,
        )
        self._on_step(Progress(step=self.sums.step, steps=steps, local_loss=found.loss_mean))


class _Steps:
    """The steps of a round, of all sites at once."""

    def __init__(self, host: ModelHost, learners: Sequence[_Learner], stack: Stack, training: TrainingConfig) -> None:
        self._host, self._learners, self._stack, self._training = host, learners, stack, training
        self._optimizer = optimizer_of(stack.tensors, training)
        self._sums = [torch.zeros_like(tensor) for tensor in stack.tensors]
        self._expected_S = torch.tensor([learner.expected_batch for learner in learners], device=host.device)

    def take_all(self) -> None:
        """Take them."""
        steps, most = self._training.steps_per_round, self._training.per_device_train_batch_size
        for _ in range(steps):
            drawn = [learner.draw(most=most, grouped=self._training.group_by_length) for learner in self._learners]
            for together in zip_longest(*drawn):
                self._accumulate([(site, mine) for site, mine in enumerate(together) if mine is not None])
            self._step()
            for learner, passes in zip(self._learners, drawn, strict=True):
                learner.close(passes, steps=steps)

    def _step(self) -> None:
        for tensor, total in zip(self._stack.tensors, self._sums, strict=True):
            tensor.grad = total / self._expected_S.view(-1, *[1] * (total.dim() - 1))
            total.zero_()
        self._optimizer.step()
        self._optimizer.zero_grad()

    def _accumulate(self, parts: _Parts) -> None:
        """Run one pass, in halves where memory does not suffice."""
        todo = [parts]
        while todo:
            chosen = todo.pop()
            size = sum(len(mine) for _, mine in chosen)
            if size <= self._host.largest_pass:
                if self._one_pass(chosen):
                    continue
                if size == 1:
                    raise no_room()
                self._host.largest_pass = size - size // 2
            todo += reversed(_halves(chosen))

    def _one_pass(self, parts: _Parts) -> bool:
        """Forward and backward; False if memory ran out, in which case nothing was accumulated."""
        records = [self._learners[site].records[i] for site, mine in parts for i in mine.record_B]
        counts = tuple(len(mine) for _, mine in parts)
        self._stack.seating.sites, self._stack.seating.counts = tuple(site for site, _ in parts), counts
        try:
            loss_N = self._host.loss_B(pad(records, pad_id=self._host.pad_id))
            torch.autograd.backward(loss_N.sum())
        except RuntimeError as err:
            if not is_out_of_memory(err):
                raise
            self._optimizer.zero_grad()
            let_go(self._host)
            return False
        for tensor, total in zip(self._stack.tensors, self._sums, strict=True):
            if tensor.grad is not None:
                total.add_(tensor.grad)
        self._optimizer.zero_grad()
        for (site, _), loss_B in zip(parts, torch.split(loss_N.detach().float(), list(counts)), strict=True):
            self._learners[site].add(loss_B)
        return True


def _halves(parts: _Parts) -> tuple[_Parts, _Parts]:
    """Cut a pass in two, between sites while there are several."""
    if len(parts) > 1:
        middle = len(parts) // 2
        return parts[:middle], parts[middle:]
    ((site, mine),) = parts
    first, second = mine.halves()
    return [(site, first)], [(site, second)]
