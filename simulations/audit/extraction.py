"""What an adapter can be made to say word for word.

Covers: secrets behind a known prefix, by greedy decoding and by rank among other secrets.
Does not cover: sampling many continuations, prompts that an attacker tunes, secrets that occur in several records.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from partsong.client.data.encode import Record
from partsong.client.model.host import ModelHost
from partsong.client.training.train import score
from partsong.simulations.audit.canaries import other_secrets
from partsong.simulations.audit.membership import Interval, part

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

RIVALS = 63
"""Other secrets that each one is ranked among: exposures reach 6 bits."""
GUESSING = math.log2(RIVALS + 1) - math.lgamma(RIVALS + 2) / math.log(2) / (RIVALS + 1)
"""Mean exposure of a secret whose rank among 64 is uniform, 1.38 bits: the mean of log2(64 / k)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Exposure:
    """Mean exposure in bits, with a 95 % interval."""

    secrets: int
    bits: Interval


@dataclass(frozen=True, kw_only=True, slots=True)
class Verbatim:
    """Secrets that greedy decoding gives back whole."""

    secrets: int
    found: int
    part: Interval


def exposures(host: ModelHost, records: Sequence[Record], *, batch_size: int, random: np.random.Generator) -> Floats:
    """Rank each secret's loss among those of random secrets behind the same prefix: log2(64) - log2(rank).

    Guarantees: between 0 and 6 bits; `GUESSING` on average for a secret that was never learned.
    Args:
        host: with the adapter.
        records: text canaries.
        batch_size: of a forward pass.
        random: of the rivals.
    Source: Carlini et al. 2019 (arXiv 1802.08232), section 4.2 and 4.3: exposure, estimated by sampling.
    """
    found = []
    for record in records:
        loss_N = score(
            host, (record, *other_secrets(record, host, count=RIVALS, random=random)), batch_size=batch_size
        ).loss_N
        rank = 1 + int((loss_N[1:] < loss_N[0]).sum())
        found.append(math.log2(RIVALS + 1) - math.log2(rank))
    return np.array(found)


def mean_exposure(bits_N: Floats) -> Exposure:
    """Average exposures; the interval is normal, for tens of secrets and more."""
    spread = 1.959964 * float(bits_N.std(ddof=1)) / math.sqrt(len(bits_N))
    value = float(bits_N.mean())
    return Exposure(secrets=len(bits_N), bits=Interval(value=value, low=value - spread, high=value + spread))


def verbatim(hit_N: Flags) -> Verbatim:
    """Count secrets whose every token is the likeliest one after those before it: greedy decoding gives them whole."""
    return Verbatim(secrets=len(hit_N), found=int(hit_N.sum()), part=part(int(hit_N.sum()), len(hit_N)))
