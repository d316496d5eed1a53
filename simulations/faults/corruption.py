"""What a corrupt site answers instead of what it should."""

from __future__ import annotations

import dataclasses

import numpy as np

from partsong.common import wire
from partsong.server.exchange import Parcel
from partsong.simulations.faults.script import Corruption


def corrupted(answer: Parcel, how: Corruption, *, site: str, other: Parcel | None, rng: np.random.Generator) -> Parcel:
    """Change an answer.

    Args:
        answer: what the site says.
        how: see `partsong.simulations.faults.script.Corruption`.
        site: its name.
        other: what another site has answered in this phase; None: nobody has yet, and `foreign` is garbage.
        rng: where bits and bytes are drawn from.
    """
    if how == "refuse":
        return Parcel(header=wire.encode(wire.Refuse(site=site, code="policy")))
    if how == "foreign" and other is not None:
        return other
    if how == "flip":
        return _flipped(answer, rng)
    return Parcel(header=answer.header, vector=rng.bytes(len(answer.vector)), note=rng.bytes(len(answer.note)))


def _flipped(answer: Parcel, rng: np.random.Generator) -> Parcel:
    name = str(rng.choice([name for name in ("header", "vector", "note") if getattr(answer, name)]))
    data = bytearray(getattr(answer, name))
    data[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
    return dataclasses.replace(answer, **{name: bytes(data)})
