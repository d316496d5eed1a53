"""One site's part of a round: some optimizer steps on Poisson samples of its own records, or of its patients.

Shape letters: B records of a pass, P trained adapter parameters.

The same loop trains with and without differential privacy; only the stepper differs.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial

import numpy as np
import torch

from partsong.client.data.batch import by_length, pad
from partsong.client.data.encode import Record
from partsong.client.dp.engine import DpSettings, Stepper, plain_stepper, private_stepper
from partsong.client.dp.sampler import PatientSampler, PoissonSampler, Randomness, require_unpredictable
from partsong.client.dp.settings import Accumulator
from partsong.client.encoders import optimizer_state
from partsong.client.encoders.encoder import LocalUpdate, Progress
from partsong.client.encoders.halfway import Bookmark, Halfway, NoBookmark, SoFar
from partsong.client.model.host import Judged, ModelHost
from partsong.client.training.passes import Pass, draw
from partsong.common.adapters.adapter import FloatVec
from partsong.common.config import TrainingConfig
from partsong.common.errors import ModelError, PartsongError, Refused
from partsong.common.privacy.accounting import StepEvents
from partsong.common.privacy.terms import DpPlan


class TrainingFailed(PartsongError):
    """Local training gave no usable update; nothing of it is sent."""


def train_round(
    host: ModelHost,
    records: Sequence[Record],
    *,
    sampling_rate: float,
    training: TrainingConfig,
    dp: DpPlan | None,
    randomness: Randomness,
    on_step: Callable[[Progress], None] = lambda _: None,
    bookmark: Bookmark | None = None,
) -> LocalUpdate:
    """Train what is selected of the adapter that sits on the host, and return how it changed.

    Guarantees:
        - every step draws its own Poisson sample; an empty one is a step like any other;
        - memory running out halves the pass, never the sample, and the host remembers it for the rounds to come;
        - a round that goes on from a bookmark takes the steps that are left and no other: what was noised is not
          noised again, and its events count once. With a repeatable sample and without noise, the result is that of a
          round without a break, bit by bit.
    Args:
        host: carries the global adapter of the round; carries the trained one afterwards.
        records: all records of the site, encoded.
        sampling_rate: q of the Poisson samples, of records or, where the terms say so, of patients.
        training: steps, optimizer and its constants.
        dp: privacy terms, or None for training without privacy.
        randomness: of the samples; a repeatable one stands at its beginning.
        on_step: told after every step, at the site.
        bookmark: of this round and these records; none if left out.
    Raises:
        TrainingFailed: the loss or the adapter is not finite. The caller throws the update away.
        ModelError: a single record does not fit into memory.
        Refused: a repeatable sample under differential privacy, or records that do not say whose they are where the
            terms hide patients; nothing was trained.
    """
    before_P = host.take_selected()
    sampler = sampler_of(records, sampling_rate, dp, randomness)
    optimizer, bookmark = optimizer_of(host.trainable(), training), bookmark or NoBookmark()
    halfway = bookmark.read()
    sums = SoFar() if halfway is None else _go_on(halfway, host, optimizer, sampler)
    steps = Steps(host, records, training, sampler)
    done = () if halfway is None else halfway.events
    with host.training(), closing(_stepper(host, optimizer, dp, steps.expected_batch, done)) as stepper:
        while sums.step < training.steps_per_round:
            sums, local_loss = steps.take(stepper, sums, private=dp is not None)
            bookmark.put(partial(_halfway, sums, host, optimizer, stepper))
            on_step(Progress(step=sums.step, steps=training.steps_per_round, local_loss=local_loss))
        events = stepper.events
    return finished(host.take_selected() - before_P, sums, events=events)


def finished(update_P: FloatVec, sums: SoFar, *, events: tuple[StepEvents, ...]) -> LocalUpdate:
    """Make what a round gives of its change and its sums.

    Raises:
        TrainingFailed: the loss or the adapter is not finite.
    """
    loss = sums.loss_sum / max(1, sums.weight_sum)
    if not (np.isfinite(update_P).all() and math.isfinite(loss)):
        raise TrainingFailed(
            "local training: found a loss or an adapter that is not finite, expected finite numbers; "
            "no update is sent; lower training.learning_rate"
        )
    return LocalUpdate(
        update_P=update_P,
        loss=loss,
        visits=sums.visits,
        tokens=sums.tokens,
        nonfinite=sums.nonfinite,
        events=events,
    )


class Steps:
    """The steps of a round, one after the other."""

    def __init__(
        self,
        host: ModelHost,
        records: Sequence[Record],
        training: TrainingConfig,
        sampler: PoissonSampler | PatientSampler,
    ) -> None:
        """Prepare; nothing is drawn yet."""
        self._host, self._records, self._training, self._sampler = host, records, training, sampler
        self._length_R = np.array([len(r.input_ids) for r in records])
        self.expected_batch = sampler.rate * sampler.size

    def take(self, stepper: Stepper, before: SoFar, *, private: bool) -> tuple[SoFar, float]:
        """Take the next one: the sums with it, and its exact loss, for the site alone."""
        passes = self.add(stepper)
        result = stepper.step()
        # Under privacy every step counts the same: which samples were empty must not show.
        weight = 1 if private else result.local.units
        sums = SoFar(
            step=before.step + 1,
            loss_sum=before.loss_sum + result.noisy_loss_mean * weight,
            weight_sum=before.weight_sum + weight,
            visits=before.visits + sum(map(len, passes)),
            tokens=before.tokens + self.tokens(passes),
            nonfinite=before.nonfinite + result.local.nonfinite_units,
        )
        return sums, result.local.loss_mean

    def add(self, stepper: Accumulator) -> list[Pass]:
        """Draw a sample and let the stepper have it."""
        most = min(self._training.per_device_train_batch_size, self._host.largest_pass)
        passes = draw(self._sampler, self._length_R, records=most, grouped=self._training.group_by_length)
        _accumulate(self._host, self._records, passes, stepper)
        return passes

    def tokens(self, passes: Sequence[Pass]) -> int:
        """Count the tokens of a sample."""
        return sum(int(self._length_R[p.record_B].sum()) for p in passes)


def _go_on(
    halfway: Halfway, host: ModelHost, optimizer: torch.optim.Optimizer, sampler: PoissonSampler | PatientSampler
) -> SoFar:
    """Stand where a round was after one of its steps."""
    step = halfway.so_far.step
    if step:
        host.put_selected(halfway.adapter_P)
        optimizer_state.put(optimizer, halfway.slots, step=step)
    if sampler.repeatable:
        for _ in range(step):
            sampler.sample()
    return halfway.so_far


def _halfway(sums: SoFar, host: ModelHost, optimizer: torch.optim.Optimizer, stepper: Stepper) -> Halfway:
    return Halfway(
        so_far=sums, adapter_P=host.take_selected(), slots=optimizer_state.take(optimizer), events=stepper.events
    )


def score(
    host: ModelHost, records: Sequence[Record], *, batch_size: int, on_pass: Callable[[int], None] = lambda _: None
) -> Judged:
    """Evaluate records, in any order, and give their scores back in the order they came."""
    loss_N, hit_N = np.zeros(len(records)), np.zeros(len(records), bool)
    guess_N, confidence_N = np.full(len(records), -1), np.zeros(len(records))
    lengths = np.array([len(r.input_ids) for r in records])
    for chosen in by_length(np.arange(len(records)), lengths, batch_size=batch_size):
        scores = host.scores(pad([records[i] for i in chosen], pad_id=host.pad_id))
        loss_N[chosen], hit_N[chosen] = scores.loss_N, scores.hit_N
        guess_N[chosen], confidence_N[chosen] = scores.guess_N, scores.confidence_N
        on_pass(len(chosen))
    return Judged(loss_N=loss_N, hit_N=hit_N, guess_N=guess_N, confidence_N=confidence_N)


def sampler_of(
    records: Sequence[Record], rate: float, dp: DpPlan | None, randomness: Randomness
) -> PoissonSampler | PatientSampler:
    """Give the sampler that the terms ask for.

    Raises:
        Refused: a repeatable one under differential privacy, or records that do not say whose they are.
    """
    if dp is None:
        return PoissonSampler(len(records), rate, randomness=randomness)
    sampler: PoissonSampler | PatientSampler
    if dp.contribution_bound is None:
        sampler = PoissonSampler(len(records), rate, randomness=randomness)
    else:
        unit_R = [record.unit for record in records if record.unit is not None]
        if len(unit_R) != len(records):
            raise Refused(
                "units_unknown",
                reason="the terms hide patients, and the records do not say whose they are",
                remedy="name the column with data.unit_field",
            )
        sampler = PatientSampler(unit_R, rate, contribution_bound=dp.contribution_bound, randomness=randomness)
    require_unpredictable(sampler)
    return sampler


def _accumulate(host: ModelHost, records: Sequence[Record], passes: list[Pass], stepper: Accumulator) -> None:
    """Run the passes of one sample, each in halves where memory does not suffice."""
    todo = list(reversed(passes))
    while todo:
        chosen = todo.pop()
        if len(chosen) <= host.largest_pass:
            if _one_pass(host, records, chosen, stepper):
                continue
            if len(chosen) == 1:
                raise no_room()
            host.largest_pass = len(chosen) - len(chosen) // 2
        todo += reversed(chosen.halves())


def no_room() -> ModelError:
    """Say that not even one record fits."""
    return ModelError(
        "memory",
        found="none left for a single record",
        expected="room for one record",
        remedy="lower data.max_length, or set model.gradient_checkpointing=true",
    )


def _one_pass(host: ModelHost, records: Sequence[Record], chosen: Pass, stepper: Accumulator) -> bool:
    """Forward and backward; False if memory ran out, in which case nothing was accumulated."""
    try:
        loss_B = host.loss_B(pad([records[i] for i in chosen.record_B], pad_id=host.pad_id))
        if chosen.patients is None:
            stepper.accumulate(loss_B)
        else:
            share_B = torch.from_numpy(chosen.patients.share_B).to(loss_B.device)
            stepper.accumulate(loss_B * share_B, chosen.patients.unit_B.tolist())
    except RuntimeError as err:
        if not is_out_of_memory(err):
            raise
    else:
        return True
    stepper.discard_partial()
    let_go(host)
    return False


def let_go(host: ModelHost) -> None:
    """Give memory back that nobody holds any more."""
    gc.collect()
    if host.device.type == "cuda":
        torch.cuda.empty_cache()


def is_out_of_memory(err: RuntimeError) -> bool:
    """CUDA has a class for it; the CPU allocator and MPS say it in words."""
    return isinstance(err, torch.OutOfMemoryError) or any(
        words in str(err) for words in ("can't allocate memory", "out of memory")
    )


def _stepper(
    host: ModelHost,
    optimizer: torch.optim.Optimizer,
    dp: DpPlan | None,
    expected_batch: float,
    done: tuple[StepEvents, ...],
) -> Stepper:
    if dp is None:
        return plain_stepper(host.model, optimizer, expected_batch=expected_batch)
    return private_stepper(host.model, optimizer, settings_of(dp, expected_batch=expected_batch), events=done)


def settings_of(dp: DpPlan, *, expected_batch: float) -> DpSettings:
    """Give the engine's settings of a plan's terms."""
    return DpSettings(
        clip_norm=dp.clip_norm,
        clipping=dp.clipping,
        noise_multiplier=dp.noise_multiplier,
        sampling_rate=dp.sampling_rate,
        expected_batch=expected_batch,
        loss_clip=dp.loss_clip,
        loss_noise_multiplier=dp.loss_noise_multiplier,
        engine=dp.engine,
        noise=dp.noise,
        unit=dp.unit,
    )


def optimizer_of(parameters: Sequence[torch.Tensor], training: TrainingConfig) -> torch.optim.Optimizer:
    """Make the optimizer of a round, over parameters that are now as the round begins.

    It works entry by entry: what becomes of one number depends on no other.
    """
    optimizer: torch.optim.Optimizer
    if training.optim == "sgd":
        optimizer = torch.optim.SGD(parameters, lr=training.learning_rate, weight_decay=training.weight_decay)
    else:
        optimizer = torch.optim.AdamW(
            parameters,
            lr=training.learning_rate,
            weight_decay=training.weight_decay,
            betas=(training.adam_beta1, training.adam_beta2),
        )
    if training.prox_mu:
        _pull_back(optimizer, mu=training.prox_mu)
    return optimizer


def _pull_back(optimizer: torch.optim.Optimizer, *, mu: float) -> None:
    """Add mu times the way from here to every gradient that the optimizer is about to use.

    The hook runs when clipping and noise are done, on values that are public by then, so it costs no privacy.

    Source: Li et al. 2020, FedProx (arXiv 1812.06127), algorithm 2.
    """
    from_here = [(p, p.detach().clone()) for group in optimizer.param_groups for p in group["params"]]

    def pull(*_: object) -> None:
        for parameter, start in from_here:
            if parameter.grad is not None:
                parameter.grad.add_(parameter.detach() - start, alpha=mu)

    optimizer.register_step_pre_hook(pull)
