"""The site's own training loop, rehearsed with canaries among public records.

Three times: with gradient canaries, watched after every step (the guesser sees all that the engine ever releases);
with nothing but blanks, so that noise is all there is to see; and with text canaries and the configured optimizer,
where only the last adapter is looked at. No adapter is kept.

M canaries, T steps, P trained parameters.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from partsong.client.data.encode import Record
from partsong.client.dp.sampler import Randomness, SystemRandomness
from partsong.client.encoders.encoder import LocalUpdate, Progress
from partsong.client.model.host import ModelHost
from partsong.client.training.train import train_round
from partsong.common.adapters.adapter import FloatVec
from partsong.common.config import TrainingConfig
from partsong.common.plan import Plan
from partsong.common.privacy.terms import DpPlan
from partsong.common.rates import learning_rate
from partsong.simulations.audit.canaries import (
    EXCESS,
    CanaryHost,
    entries,
    filler,
    gradient_records,
    text_records,
)
from partsong.simulations.audit.statistics import Noise

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

WATCHED_RATE = 0.1
"""Learning rate of the watched rehearsal: any will do, for releases are read off the weights and divided by it."""


FAIR = 0.5
"""Chance of each canary to be in."""
BLANKS = 20
"""Records of the silent rehearsal; their number sets the size of a pass and nothing else."""


class Train(Protocol):
    """The face of `train_round`."""

    def __call__(
        self,
        host: ModelHost,
        records: Sequence[Record],
        *,
        sampling_rate: float,
        training: TrainingConfig,
        dp: DpPlan | None,
        randomness: Randomness,
        on_step: Callable[[Progress], None],
    ) -> LocalUpdate:
        """Train the adapter on the host."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Watched:
    """What the rehearsal with gradient canaries showed."""

    score_M: Floats
    included_M: Flags
    draws: int
    """How often canaries were in samples, all together."""
    chances: int
    """How often they could have been: canaries times steps that were seen."""
    steps: int
    """Steps that were seen to change the adapter."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Trained:
    """What the rehearsal with text canaries left."""

    records: tuple[Record, ...]
    included_M: Flags
    adapter_P: FloatVec
    start_P: FloatVec


def watch(
    host: ModelHost,
    records: Sequence[Record],
    *,
    plan: Plan,
    canaries: int,
    random: np.random.Generator,
    train: Train = train_round,
) -> Watched:
    """Rehearse a plan with gradient canaries and score each by all releases.

    The local optimizer is plain SGD: what an optimizer does with a release cannot make it tell more, and from SGD's
    weights the release can be read. Each canary pushes one entry of the adapter; its score is the log-likelihood
    ratio of what that entry released, step by step, between a canary that is sampled and one that is blank.

    Args:
        host: adapter at its start; it is back there afterwards.
        records: public ones of one site. Their gradients hide canaries as noise does, and nobody promised that
            they would be there: few make the stronger test.
        plan: with privacy terms.
        canaries: M.
        random: of the coins; samples and noise have the system's.
        train: the training loop.
    Raises:
        ConfigError: more canaries than trained numbers.
    """
    dp = _terms(plan)
    start_P, chosen, included_M = host.take(), entries(host, count=canaries), random.random(canaries) < FAIR
    watched = CanaryHost(
        host, chosen=chosen, included_M=included_M, push=EXCESS * dp.clip_norm, loss=EXCESS * dp.loss_clip
    )
    everybody = (*records, *gradient_records(host, count=canaries))
    places = np.array([entry.place for entry in chosen])
    last_M, score_M, steps, draws = start_P[places].astype(np.float64), np.zeros(canaries), 0, 0
    to_clips = _clips_per_weight(dp, units=count_units(everybody, dp.unit))

    def see(_: Progress) -> None:
        nonlocal last_M, score_M, steps, draws
        now_M = watched.take()[places].astype(np.float64)
        score_M += _evidence((last_M - now_M) * to_clips, rate=dp.sampling_rate, noise=dp.noise_multiplier)
        steps += int(not np.array_equal(now_M, last_M))
        draws += len(watched.end_sample())
        last_M = now_M

    for _ in range(plan.rounds):
        _train_once(train, watched, everybody, plan=plan, training=_watched(plan.training), see=see)
    host.put(start_P)
    return Watched(
        score_M=score_M,
        included_M=included_M,
        draws=draws,
        chances=canaries * steps,
        steps=steps,
    )


def listen(host: ModelHost, *, plan: Plan, train: Train = train_round) -> Noise:
    """Rehearse a plan with blanks only, and measure what is released: noise, and nothing else.

    Each release is taken against the mean of those before it, so that noise which repeats is none.

    Args:
        host: adapter at its start; it is back there afterwards.
        plan: with privacy terms.
        train: the training loop.
    """
    dp, start_P = _terms(plan), host.take()
    silent = CanaryHost(
        host, chosen=entries(host, count=BLANKS), included_M=np.zeros(BLANKS, dtype=np.bool_), push=0.0, loss=0.0
    )
    blanks = gradient_records(host, count=BLANKS)
    to_noise = _clips_per_weight(dp, units=BLANKS) / dp.noise_multiplier
    last_P, past_P, seen, squares = start_P.astype(np.float64), np.zeros(len(start_P)), 0, 0.0

    def see(_: Progress) -> None:
        nonlocal last_P, past_P, seen, squares
        now_P = host.take().astype(np.float64)
        release_P = (last_P - now_P) * to_noise
        if seen:
            squares += float((release_P - past_P / seen) @ (release_P - past_P / seen)) * seen / (seen + 1)
        last_P, past_P, seen = now_P, past_P + release_P, seen + 1

    for _ in range(max(plan.rounds, 2)):
        _train_once(train, silent, blanks, plan=plan, training=_watched(plan.training), see=see)
    host.put(start_P)
    return Noise(squares=squares, count=len(start_P) * (seen - 1))


def _watched(training: TrainingConfig) -> TrainingConfig:
    return dataclasses.replace(training, optim="sgd", learning_rate=WATCHED_RATE, weight_decay=0.0)


def count_units(records: Sequence[Record], unit: str) -> int:
    """Count what is sampled: records, or those whose records they are."""
    return len(records) if unit == "record" else len({record.unit for record in records})


def _clips_per_weight(dp: DpPlan, *, units: int) -> float:
    """Turn a step of the weights back into the noisy sum that caused it, in clips."""
    return dp.sampling_rate * units / (WATCHED_RATE * dp.clip_norm)


def _evidence(release_M: Floats, *, rate: float, noise: float) -> Floats:
    """Log-likelihood ratio of N(0, noise^2) mixed with N(1, noise^2) at this rate, against N(0, noise^2) alone."""
    ratio_M = (release_M - 0.5) / noise**2
    with np.errstate(divide="ignore"):
        evidence: Floats = np.logaddexp(np.log1p(-rate) if rate < 1 else -np.inf, np.log(rate) + ratio_M)
    return evidence


def train_with_texts(
    host: ModelHost,
    records: Sequence[Record],
    *,
    plan: Plan,
    texts: int,
    random: np.random.Generator,
    train: Train = train_round,
) -> Trained:
    """Rehearse a plan, round by round as configured, with text canaries.

    Args:
        host: adapter at its start; it is back there afterwards.
        records: public ones of one site.
        plan: with or without privacy terms.
        texts: M.
        random: of texts and coins.
        train: the training loop.
    """
    start_P, included_M = host.take(), random.random(texts) < FAIR
    canaries = text_records(host, count=texts, classes=len(plan.labels), random=random)
    blanks = (filler(host, number=m, classes=len(plan.labels)) for m in range(texts))
    everybody = (*records, *(c if kept else b for c, b, kept in zip(canaries, blanks, included_M, strict=True)))
    for number in range(1, plan.rounds + 1):
        rate = learning_rate(plan.training, number=number, rounds=plan.rounds)
        training = dataclasses.replace(plan.training, learning_rate=rate)
        _train_once(train, host, everybody, plan=plan, training=training, see=lambda _: None)
    adapter_P = host.take()
    host.put(start_P)
    return Trained(records=canaries, included_M=included_M, adapter_P=adapter_P, start_P=start_P)


def _train_once(
    train: Train,
    host: ModelHost,
    records: Sequence[Record],
    *,
    plan: Plan,
    training: TrainingConfig,
    see: Callable[[Progress], None],
) -> None:
    train(
        host,
        records,
        sampling_rate=plan.sampling_rate,
        training=training,
        dp=plan.dp,
        randomness=SystemRandomness(),
        on_step=see,
    )


def _terms(plan: Plan) -> DpPlan:
    if plan.dp is None:
        raise AssertionError("the caller has refused a plan without privacy")
    return plan.dp
