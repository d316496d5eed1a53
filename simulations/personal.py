"""A second, private adapter for one site, trained after the shared one and on top of it. For simulations.

Covers: the private part is fitted to a finished shared adapter that stays frozen; it never leaves the site, so it may
be trained without noise. What is published of the run is the same with and without it.
Does not cover: what people make of answers that the private part gives: treat it as the records themselves.

Training both at once is refused under differential privacy. A private factor that was fitted without noise stands in
the forward pass of every record, so one record moves the clipped gradients of all others: of N records by up to N - 1
clips where the accountant counts one.

Source: dual adapters, FedDPA 2024 (arXiv 2403.19211).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import peft
import torch
from torch import nn

from partsong.client.data.encode import Record
from partsong.client.dp.guards import refuse_choice
from partsong.client.dp.sampler import Randomness
from partsong.client.encoders.encoder import LocalUpdate
from partsong.client.model.host import ModelHost
from partsong.client.training.train import train_round
from partsong.common.adapters.adapter import FloatVec
from partsong.common.config import TrainingConfig
from partsong.common.privacy.terms import DpPlan

_NAME = "private"


@contextmanager
def dressed(host: ModelHost, *, rank: int, seed: int = 0) -> Iterator[ModelHost]:
    """Put a private adapter beside the shared one for the time of a block; both are active, the private one is trained.

    Guarantees: it begins at zero, so the model begins as with the shared adapter alone; afterwards the host is as it
        was.
    Args:
        host: carries the finished shared adapter.
        rank: of the private one.
        seed: of its A.
    """
    model, options = cast(Any, host.model), {**host.lora_options, "r": rank, "modules_to_save": None}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model.add_adapter(_NAME, peft.LoraConfig(**options))
    try:
        model.base_model.set_adapter(["default", _NAME])
        for name, parameter in host.model.named_parameters():
            parameter.requires_grad_(f".{_NAME}." in name)
        yield ModelHost(
            model=host.model, tokenizer=host.tokenizer, files=host.files, device=host.device, options=host.lora_options
        )
    finally:
        model.base_model.set_adapter("default")
        model.delete_adapter(_NAME)
        _restore(host)


def train_private(
    personal: ModelHost,
    records: Sequence[Record],
    *,
    sampling_rate: float,
    training: TrainingConfig,
    randomness: Randomness,
) -> LocalUpdate:
    """Train the private adapter alone, for its owner's eyes; see `train_round`."""
    return train_round(
        personal, records, sampling_rate=sampling_rate, training=training, dp=None, randomness=randomness
    )


def train_jointly(
    personal: ModelHost,
    shared: ModelHost,
    records: Sequence[Record],
    *,
    sampling_rate: float,
    training: TrainingConfig,
    dp: DpPlan | None,
    randomness: Randomness,
) -> FloatVec:
    """Train private and shared adapter together and give the change of the shared one: for studies without privacy.

    Raises:
        Refused: under differential privacy; nothing was trained.
    """
    if dp is not None:
        refuse_choice("local_factor")
    before_P = shared.take()
    for parameter in shared.trainable():
        parameter.requires_grad_(True)
    both = ModelHost(
        model=personal.model,
        tokenizer=personal.tokenizer,
        files=personal.files,
        device=personal.device,
        options=personal.lora_options,
    )
    train_round(both, records, sampling_rate=sampling_rate, training=training, dp=None, randomness=randomness)
    return shared.take() - before_P


def _restore(host: ModelHost) -> None:
    trained: set[nn.Parameter] = set(host.trainable())
    for parameter in host.model.parameters():
        parameter.requires_grad_(parameter in trained)
