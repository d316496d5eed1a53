"""What an adapter remembers: membership and extraction, put together.

M records.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from partsong.client.data.encode import Record
from partsong.client.data.tokens import IGNORED
from partsong.client.model.host import ModelHost
from partsong.client.training.train import score
from partsong.common.adapters.adapter import FloatVec
from partsong.simulations.audit.extraction import Exposure, Verbatim, exposures, mean_exposure, verbatim
from partsong.simulations.audit.membership import Attack, loss_attack, ratio_attack
from partsong.simulations.audit.rehearsal import Trained

Flags = NDArray[np.bool_]

EXPOSED = 32
"""At most this many secrets of each kind are ranked: each costs 64 scored texts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    """What was found out about records that were in and records that were not."""

    attacks: tuple[Attack, ...]
    verbatim: dict[str, Verbatim]
    """"in" and "out" -> secrets given back whole; empty for a classifier."""
    exposure: dict[str, Exposure]
    """"in" and "out" -> mean exposure; empty where none was measured."""


def remembered(host: ModelHost, trained: Trained, *, batch_size: int, random: np.random.Generator) -> Memory:
    """Attack a rehearsed adapter by its text canaries.

    Args:
        host: that trained it; its adapter is back at the start afterwards.
        trained: the canaries and the adapters.
        batch_size: of a forward pass.
        random: of the secrets that each one is ranked among.
    """
    found = compared(
        host,
        trained.records,
        trained.included_M,
        start_P=trained.start_P,
        adapter_P=trained.adapter_P,
        batch_size=batch_size,
    )
    if host.is_classifier:
        return found
    host.put(trained.adapter_P)
    bits = {}
    for name, kept_M in (("in", trained.included_M), ("out", ~trained.included_M)):
        chosen = [trained.records[i] for i in np.flatnonzero(kept_M)[:EXPOSED]]
        bits[name] = mean_exposure(exposures(host, chosen, batch_size=batch_size, random=random))
    host.put(trained.start_P)
    return Memory(attacks=found.attacks, verbatim=found.verbatim, exposure=bits)


def compared(
    host: ModelHost,
    records: Sequence[Record],
    included_M: Flags,
    *,
    start_P: FloatVec,
    adapter_P: FloatVec,
    batch_size: int,
) -> Memory:
    """Attack an adapter by records that were in its training data and others that were not.

    Args:
        host: its adapter is `start_P` afterwards.
        records: M of them.
        included_M: (M,) which were in.
        start_P: the adapter before training, which changes nothing about the base.
        adapter_P: the adapter that is attacked.
        batch_size: of a forward pass.
    """
    host.put(adapter_P)
    after = score(host, records, batch_size=batch_size)
    host.put(start_P)
    before = score(host, records, batch_size=batch_size)
    hits = {"in": verbatim(after.hit_N[included_M]), "out": verbatim(after.hit_N[~included_M])}
    ratio = ratio_attack(
        before_M=before.loss_N, after_M=after.loss_N, tokens_M=_learned(records), included_M=included_M
    )
    return Memory(
        attacks=(loss_attack(after.loss_N, included_M), ratio),
        verbatim={} if host.is_classifier else hits,
        exposure={},
    )


def _learned(records: Sequence[Record]) -> NDArray[np.float64]:
    """Count learned tokens; a class counts as one."""
    return np.array([max(1, int((r.labels != IGNORED).sum())) for r in records], dtype=np.float64)
