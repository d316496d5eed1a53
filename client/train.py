"""One site's part of a round: some optimizer steps on Poisson samples of its own records, or of its patients.

Shape letters: B records of a pass, P trained adapter parameters.

The same loop trains with and without differential privacy; only the stepper differs.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Sequence
from contextlib import closing

import numpy as np
import torch

from partsong.client.data.batch import by_length, pad
from partsong.client.data.encode import Record
from partsong.client.dp.engine import DpSettings, Stepper, StepResult, plain_stepper, private_stepper
from partsong.client.dp.sampler import PatientSampler, PoissonSampler, Randomness, require_unpredictable
from partsong.client.encoders.encoder import LocalUpdate, Progress
from partsong.client.model.host import ModelHost, Scores
from partsong.client.passes import Pass, draw
from partsong.common.config import TrainingConfig
from partsong.common.errors import ModelError, PartsongError, Refused
from partsong.common.plan import DpPlan


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
) -> LocalUpdate:
    """Train the adapter that sits on the host and return how it changed.

    Guarantees:
        - every step draws its own Poisson sample; an empty one is a step like any other;
        - memory running out halves the pass, never the sample, and the host remembers it for the rounds to come.
    Args:
        host: carries the global adapter of the round; carries the trained one afterwards.
        records: all records of the site, encoded.
        sampling_rate: q of the Poisson samples, of records or, where the terms say so, of patients.
        training: steps, optimizer and its constants.
        dp: privacy terms, or None for training without privacy.
        randomness: of the samples.
        on_step: told after every step, at the site.
    Raises:
        TrainingFailed: the loss or the adapter is not finite. The caller throws the update away.
        ModelError: a single record does not fit into memory.
        Refused: a repeatable sample under differential privacy, or records that do not say whose they are where the
            terms hide patients; nothing was trained.
    """
    before_P = host.take()
    sampler = _sampler(records, sampling_rate, dp, randomness)
    length_R = np.array([len(r.input_ids) for r in records])
    results: list[StepResult] = []
    visits = tokens = 0
    with host.training(), closing(_stepper(host, training, dp, sampling_rate * sampler.size)) as stepper:
        for step in range(1, training.steps_per_round + 1):
            most = min(training.per_device_train_batch_size, host.largest_pass)
            passes = draw(sampler, length_R, records=most, grouped=training.group_by_length)
            _accumulate(host, records, passes, stepper)
            results.append(stepper.step())
            visits += sum(map(len, passes))
            tokens += sum(int(length_R[p.record_B].sum()) for p in passes)
            local_loss = results[-1].local.loss_mean
            on_step(Progress(step=step, steps=training.steps_per_round, local_loss=local_loss))
        events = stepper.events
    update_P, loss = host.take() - before_P, _loss(results, private=dp is not None)
    if not (np.isfinite(update_P).all() and math.isfinite(loss)):
        raise TrainingFailed(
            "local training: found a loss or an adapter that is not finite, expected finite numbers; "
            "no update is sent; lower training.learning_rate"
        )
    return LocalUpdate(
        update_P=update_P,
        loss=loss,
        visits=visits,
        tokens=tokens,
        nonfinite=sum(r.local.nonfinite_units for r in results),
        events=events,
    )


def score(
    host: ModelHost, records: Sequence[Record], *, batch_size: int, on_pass: Callable[[int], None] = lambda _: None
) -> Scores:
    """Evaluate records, in any order, and give their scores back in the order they came."""
    loss_N, hit_N = np.zeros(len(records)), np.zeros(len(records), bool)
    lengths = np.array([len(r.input_ids) for r in records])
    for chosen in by_length(np.arange(len(records)), lengths, batch_size=batch_size):
        scores = host.scores(pad([records[i] for i in chosen], pad_id=host.pad_id))
        loss_N[chosen], hit_N[chosen] = scores.loss_N, scores.hit_N
        on_pass(len(chosen))
    return Scores(loss_N=loss_N, hit_N=hit_N)


def _sampler(
    records: Sequence[Record], rate: float, dp: DpPlan | None, randomness: Randomness
) -> PoissonSampler | PatientSampler:
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


def _loss(results: Sequence[StepResult], *, private: bool) -> float:
    losses = np.array([r.noisy_loss_mean for r in results])
    if private:  # every step counts the same: which samples were empty must not show
        return float(losses.mean())
    units = np.array([r.local.units for r in results])
    return float((losses * units).sum() / max(1, units.sum()))


def _accumulate(host: ModelHost, records: Sequence[Record], passes: list[Pass], stepper: Stepper) -> None:
    """Run the passes of one sample, each in halves where memory does not suffice."""
    todo = list(reversed(passes))
    while todo:
        chosen = todo.pop()
        if len(chosen) <= host.largest_pass:
            if _one_pass(host, records, chosen, stepper):
                continue
            if len(chosen) == 1:
                raise ModelError(
                    "memory",
                    found="none left for a single record",
                    expected="room for one record",
                    remedy="lower data.max_length, or set model.gradient_checkpointing=true",
                )
            host.largest_pass = len(chosen) - len(chosen) // 2
        todo += reversed(chosen.halves())


def _one_pass(host: ModelHost, records: Sequence[Record], chosen: Pass, stepper: Stepper) -> bool:
    """Forward and backward; False if memory ran out, in which case nothing was accumulated."""
    try:
        loss_B = host.loss_B(pad([records[i] for i in chosen.record_B], pad_id=host.pad_id))
        if chosen.patients is None:
            stepper.accumulate(loss_B)
        else:
            share_B = torch.from_numpy(chosen.patients.share_B).to(loss_B.device)
            stepper.accumulate(loss_B * share_B, chosen.patients.unit_B.tolist())
    except RuntimeError as err:
        if not _out_of_memory(err):
            raise
    else:
        return True
    stepper.discard_partial()
    gc.collect()
    if host.device.type == "cuda":
        torch.cuda.empty_cache()
    return False


def _out_of_memory(err: RuntimeError) -> bool:
    """CUDA has a class for it; the CPU allocator and MPS say it in words."""
    return isinstance(err, torch.OutOfMemoryError) or any(
        words in str(err) for words in ("can't allocate memory", "out of memory")
    )


def _stepper(host: ModelHost, training: TrainingConfig, dp: DpPlan | None, expected_batch: float) -> Stepper:
    optimizer = _optimizer(host, training)
    if dp is None:
        return plain_stepper(host.model, optimizer, expected_batch=expected_batch)
    settings = DpSettings(
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
    return private_stepper(host.model, optimizer, settings)


def _optimizer(host: ModelHost, training: TrainingConfig) -> torch.optim.Optimizer:
    if training.optim == "sgd":
        return torch.optim.SGD(host.trainable(), lr=training.learning_rate, weight_decay=training.weight_decay)
    return torch.optim.AdamW(
        host.trainable(),
        lr=training.learning_rate,
        weight_decay=training.weight_decay,
        betas=(training.adam_beta1, training.adam_beta2),
    )
