"""One site's part of a round: some optimizer steps on Poisson samples of its own records.

Shape letters: B records of a pass, P trained adapter parameters.

The same loop trains with and without differential privacy; only the stepper differs.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from partsong.client.data.batch import by_length, pad
from partsong.client.data.encode import Record
from partsong.client.dp.engine import DpSettings, Stepper, plain_stepper, private_stepper
from partsong.client.dp.sampler import PoissonSampler, Randomness, require_unpredictable
from partsong.client.model.host import ModelHost, Scores
from partsong.common.adapter import FloatVec
from partsong.common.config import TrainingConfig
from partsong.common.errors import ModelError, PartsongError
from partsong.common.plan import DpPlan


class TrainingFailed(PartsongError):
    """Local training gave no usable update; nothing of it is sent."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """Where a local round stands. Shown at the site only."""

    step: int
    steps: int
    local_loss: float
    """Mean of the drawn records' losses, without noise: never sent."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LocalUpdate:
    """What a round of local training gives. Never leaves a site unsealed."""

    update_P: FloatVec
    """New minus old adapter [weight units]."""
    loss: float
    """Mean over the steps of the released loss; under differential privacy clipped and noised."""
    visits: int
    """Records drawn, with repetition. Local."""
    tokens: int
    """Tokens of those records. Local."""
    nonfinite: int
    """Records whose gradient was not finite and counted as zero. Local."""


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
        - memory running out halves the pass, never the sample.
    Args:
        host: carries the global adapter of the round; carries the trained one afterwards.
        records: all records of the site, encoded.
        sampling_rate: q of the Poisson samples.
        training: steps, optimizer and its constants.
        dp: privacy terms, or None for training without privacy.
        randomness: of the samples.
        on_step: told after every step, at the site.
    Raises:
        TrainingFailed: the loss or the adapter is not finite. The caller throws the update away.
        ModelError: a single record does not fit into memory.
        Refused: a repeatable sample under differential privacy; nothing was trained.
    """
    before_P = host.take()
    sampler = PoissonSampler(len(records), sampling_rate, randomness=randomness)
    if dp is not None:
        require_unpredictable(sampler)
    lengths = np.array([len(r.input_ids) for r in records])
    losses: list[float] = []
    visits = tokens = nonfinite = 0
    with host.training(), closing(_stepper(host, training, dp, sampling_rate * len(records))) as stepper:
        for step in range(1, training.steps_per_round + 1):
            drawn = sampler.sample()
            _accumulate(host, records, _passes(drawn, lengths, training), stepper)
            result = stepper.step()
            losses.append(result.noisy_loss_mean)
            visits, tokens = visits + len(drawn), tokens + int(lengths[drawn].sum())
            nonfinite += result.local.nonfinite_records
            on_step(Progress(step=step, steps=training.steps_per_round, local_loss=result.local.loss_mean))
    update_P, loss = host.take() - before_P, float(np.mean(losses))
    if not (np.isfinite(update_P).all() and math.isfinite(loss)):
        raise TrainingFailed(
            "local training: found a loss or an adapter that is not finite, expected finite numbers; "
            "no update is sent; lower training.learning_rate"
        )
    return LocalUpdate(update_P=update_P, loss=loss, visits=visits, tokens=tokens, nonfinite=nonfinite)


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


def _passes(drawn: NDArray[np.int64], lengths: NDArray[np.int64], training: TrainingConfig) -> list[NDArray[np.int64]]:
    size = training.per_device_train_batch_size
    if training.group_by_length:
        return by_length(drawn, lengths, batch_size=size)
    return [drawn[i : i + size] for i in range(0, len(drawn), size)]


def _accumulate(host: ModelHost, records: Sequence[Record], passes: list[NDArray[np.int64]], stepper: Stepper) -> None:
    """Run the passes of one sample, each in halves where memory does not suffice."""
    todo = list(reversed(passes))
    while todo:
        chosen = todo.pop()
        if _one_pass(host, [records[i] for i in chosen], stepper):
            continue
        if len(chosen) == 1:
            raise ModelError(
                "memory",
                found="none left for a single record",
                expected="room for one record",
                remedy="lower data.max_length, or set model.gradient_checkpointing=true",
            )
        todo += [chosen[len(chosen) // 2 :], chosen[: len(chosen) // 2]]


def _one_pass(host: ModelHost, records: Sequence[Record], stepper: Stepper) -> bool:
    """Forward and backward; False if memory ran out, in which case nothing was accumulated."""
    try:
        stepper.accumulate(host.loss_B(pad(records, pad_id=host.pad_id)))
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
