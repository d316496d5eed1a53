"""The plan of a canary: a masked run of free size without model and records."""

from __future__ import annotations

import numpy as np

from partsong.common.adapters.adapter import AdapterLayout, TensorSpec, digest
from partsong.common.canary import LARGEST_MARK, NO_MODEL
from partsong.common.config import SecureSumConfig, ServerOptimizerConfig, TrainingConfig
from partsong.common.plan import LOSS, UPDATE, Plan
from partsong.common.secure_sum.fixed_point import Block, Encoding

_CLIP = LARGEST_MARK + 1.0


def make_canary(
    *, run: str, size: int, rounds: int, max_sites: int, minimum_cohort: int, seed: int | None = None
) -> Plan:
    """Plan rounds whose sum is known beforehand.

    Its frozen part is empty and its start is `size` zeros.

    Args:
        run: its unique name.
        size: numbers in a vector, >= 1.
        rounds: >= 1.
        max_sites: most sites a sum may hold.
        minimum_cohort: fewest sites of a sum; sites do not go below their own floor for a canary either.
        seed: None: every vector is zero. Otherwise vectors are those of `partsong.common.canary.canary_update`.
    """
    blocks = (
        Block(name=UPDATE, size=size, clip=_CLIP, norm="linf", rotate=False),
        Block(name=LOSS, size=1, clip=_CLIP, norm="linf", rotate=False),
    )
    return Plan(
        run=run,
        study="canary",
        task="causal_lm",
        rounds=rounds,
        base_sha256=NO_MODEL,
        method="ffa",
        lora={},
        layout=AdapterLayout(tensors=(TensorSpec(name="canary.weight", shape=(size,), trained=True),)),
        frozen_sha256=digest(np.zeros(0, np.float32)),
        training=TrainingConfig(steps_per_round=1),
        sampling_rate=1.0,
        dp=None,
        encoding=Encoding(blocks=blocks, field_bits=SecureSumConfig().field_bits, max_sites=max_sites),
        masked=True,
        spot_checks=True,
        start_sha256=digest(np.zeros(size, np.float32)),
        optimizer=ServerOptimizerConfig(),
        minimum_cohort=minimum_cohort,
        labels=(),
        max_length=2,
        seed=seed,
    )
