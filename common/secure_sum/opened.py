"""What the sum of a training round says, for whoever has it: the coordinator, and each site that checks it.

Shape letters: P trained parameters, W words.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from partsong.common.build import sha256_of
from partsong.common.errors import Refused
from partsong.common.groups import asked_in
from partsong.common.identity.charter import Charter
from partsong.common.plan import LOSS, UPDATE, Plan, rotation_seed
from partsong.common.privacy.terms import SumNoise
from partsong.common.rates import step_rate
from partsong.common.secure_sum import noised
from partsong.common.secure_sum.fixed_point import WordVec, decode_sum
from partsong.common.secure_sum.length import require_short
from partsong.common.secure_sum.result import OpenedSum


@dataclass(frozen=True, kw_only=True, slots=True)
class Opened:
    """What a round's sum says."""

    mean_P: NDArray[np.float64]
    """Mean update over the sites of the sum, weighted as their charter says; of what the round trains. Of a question
    the mean answer, and of a vote the mean of the sites' votes, which have no weights."""
    loss: float
    """Mean released loss; of a question the mean of the sites' sums."""
    sites: int


def read_sum(total_W: WordVec, plan: Plan, *, number: int, sites: int, shares: Sequence[float] | None = None) -> Opened:
    """Decode a sum and divide by the weight of its summands. Exact and the same for everyone who has the words.

    Args:
        total_W: (W,) sum of `sites` encoded vectors.
        plan: that they were encoded for.
        number: of the round.
        sites: summands.
        shares: what each summand's update was multiplied by, by ascending site; None: 1. The loss has no weights.
    Raises:
        SumOutOfRange: the words are no sum of that many encoded vectors; `SumTooLong`: not of ones inside their clips.
    """
    seed = rotation_seed(plan.sha256, number=number)
    if plan.on_sum is not None:
        return _read_gradient(total_W, plan, plan.on_sum, number=number, sites=sites)
    encoding = plan.encoding_of(number)
    sums = decode_sum(total_W, encoding, sites=sites, rotation_seed=seed)
    for block in encoding.blocks:
        require_short(sums[block.name], block, encoding, sites=sites)
    weighted = shares is not None and plan.question is None and not plan.is_vote(number)
    weight = math.fsum(shares) if shares is not None and weighted else sites
    mean_P = sums[UPDATE]
    mean_P /= weight
    return Opened(mean_P=mean_P, loss=float(sums[LOSS][0]) / sites, sites=sites)


def _read_gradient(total_W: WordVec, plan: Plan, noise: SumNoise, *, number: int, sites: int) -> Opened:
    """Turn a noisy sum of clipped gradients into the step that the mean over the expected batch asks for.

    The batch is a public number: how many units were drawn, and how many there are, nobody knows.
    """
    seed = rotation_seed(plan.sha256, number=number)
    sums = noised.decode_sum(total_W, plan.noised(number), sites=sites, rotation_seed=seed)
    mean_P = sums[UPDATE]
    mean_P *= -step_rate(plan, number=number) / noise.expected_batch
    return Opened(mean_P=mean_P, loss=float(sums[LOSS][0]) / noise.expected_batch, sites=sites)


def read_opened(result: OpenedSum, plan: Plan, charter: Charter, *, number: int) -> Opened:
    """Decode an opened sum of a consortium, with the weights of its charter.

    Raises:
        SumOutOfRange: the words are no sum of encoded vectors.
        Refused: `noise_floor`, a sum of fewer sites than the plan's noise needs; `other_group`, one with a site that
            the round had not to ask. In both cases nothing was decoded.
    """
    if len(result.sites) < plan.minimum_sum:
        raise Refused(
            "noise_floor",
            reason=f"a sum over {len(result.sites)} sites, whose noise needs {plan.minimum_sum}",
            remedy="throw it away; no site that keeps to the plan has confirmed it",
        )
    names = tuple(charter.sites[site].id for site in result.sites)
    if asked_in(plan, number, names) != names:
        raise Refused(
            "other_group",
            reason="a sum with sites of another group than the round's: they would be in two groups' means",
            remedy="throw it away; ask each group's sites in the rounds of that group",
        )
    shares = tuple(map(charter.share, result.sites))
    return read_sum(result.words, plan, number=number, sites=len(result.sites), shares=shares)


def model_hash(adapter_sha256: str) -> bytes:
    """Give `model` of a round's header: the trained part that the sites start from."""
    return bytes.fromhex(adapter_sha256)


def query_hash(plan: Plan, *, number: int) -> bytes:
    """Give `query` of a round's header: the whole plan, with base model, clip, noise and steps, and the round."""
    return hashlib.sha256(f"partsong query\0{plan.sha256}\0{number}".encode()).digest()


def encoding_hash(plan: Plan, *, number: int) -> bytes:
    """Give `encoding` of a round's header."""
    return bytes.fromhex(sha256_of(plan.encoding_of(number)))
