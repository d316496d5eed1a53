"""One site's part of a step that all sites take together: the exact sum of its clipped gradients.

Covers: a sum that one record, or one patient, moves by no more than its clip, from a sample that nobody can predict.
Does not cover: noise. `partsong.client.seal` adds this site's share when the sum is sealed, and nothing leaves before.

No weight changes here: the step is the coordinator's, on the mean over all sites.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing

import numpy as np
import torch

from partsong.client.data.encode import Record
from partsong.client.dp.engine import summing
from partsong.client.dp.sampler import Randomness
from partsong.client.encoders.encoder import LocalUpdate, Progress
from partsong.client.model.host import ModelHost
from partsong.client.training.train import Steps, TrainingFailed, sampler_of, settings_of
from partsong.common.config import TrainingConfig
from partsong.common.privacy.terms import DpPlan


def sum_gradients(
    host: ModelHost,
    records: Sequence[Record],
    *,
    training: TrainingConfig,
    dp: DpPlan,
    randomness: Randomness,
    on_step: Callable[[Progress], None] = lambda _: None,
) -> LocalUpdate:
    """Draw one Poisson sample and add up its clipped gradients and losses.

    Guarantees: the adapter on the host stays as it is; an empty sample gives zeros like any other sum.
    Args:
        host: carries the global adapter of the round.
        records: all records of the site, encoded.
        training: how samples are cut into passes.
        dp: clips, unit and sampling rate.
        randomness: of the sample.
        on_step: told when the sum is there, at the site.
    Returns:
        the sums; their `events` are for the caller to fill in, who knows the noise of the round.
    Raises:
        TrainingFailed: the sum is not finite.
        ModelError, Refused: as `train_round`.
    """
    sampler = sampler_of(records, dp.sampling_rate, dp, randomness)
    steps = Steps(host, records, training, sampler)
    unused = torch.optim.SGD(host.trainable(), lr=training.learning_rate)
    settings = settings_of(dp, expected_batch=steps.expected_batch)
    with host.training(), closing(summing(host.model, unused, settings)) as stepper:
        passes = steps.add(stepper)
        sums = stepper.take()
    sum_P = sums.gradient_P.numpy()
    if not np.isfinite(sum_P).all():
        raise TrainingFailed(
            "local sum: found a gradient that is not finite, expected finite numbers; no update is sent; "
            "lower optimizer.learning_rate"
        )
    on_step(Progress(step=1, steps=1, local_loss=sums.local.loss_mean))
    return LocalUpdate(
        update_P=sum_P,
        loss=sums.loss,
        visits=sum(map(len, passes)),
        tokens=steps.tokens(passes),
        nonfinite=sums.local.nonfinite_units,
        events=(),
    )
