"""Unfinished local work as bytes, and nothing else back from bytes than what was written.

Shape letter: P trained adapter parameters. Floats are little-endian: 8 bytes for a number, 4 for an entry of a vector.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np

from partsong.client.encoders.encoder import LocalUpdate
from partsong.client.encoders.halfway import Halfway, SoFar
from partsong.common.adapters.adapter import FloatVec
from partsong.common.codec import pack, unpack
from partsong.common.errors import WireError
from partsong.common.privacy.accounting import StepEvents

Number = Annotated[bytes, 8]
_UNITS = ("record", "patient")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Events:
    rate: Number
    multiplier: Number
    steps: int
    unit: int


@dataclass(frozen=True, kw_only=True, slots=True)
class _Slot:
    name: bytes
    vector: bytes


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class _Halfway:
    LABEL: ClassVar[str] = "unfinished round"
    step: int
    loss_sum: Number
    weight_sum: int
    visits: int
    tokens: int
    nonfinite: int
    events: tuple[_Events, ...]
    adapter: bytes
    slots: tuple[_Slot, ...]


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class _Waiting:
    LABEL: ClassVar[str] = "waiting update"
    loss: Number
    visits: int
    tokens: int
    nonfinite: int
    events: tuple[_Events, ...]
    update: bytes


def to_bytes(work: Halfway | LocalUpdate) -> bytes:
    """Write a round after one of its steps, or an update that is complete."""
    return pack(_from_halfway(work) if isinstance(work, Halfway) else _from_update(work))


def from_bytes(data: bytes, *, size: int) -> Halfway | LocalUpdate:
    """Read what `to_bytes` wrote.

    Guarantees: `to_bytes` of the result is `data`.
    Args:
        data: authentic; that is the caller's to check.
        size: P of the plan.
    Raises:
        WireError: other bytes, or of another size of adapter.
    """
    try:
        halfway = unpack(_Halfway, data)
    except WireError:
        return _to_update(unpack(_Waiting, data), size=size)
    return _to_halfway(halfway, size=size)


def _from_halfway(work: Halfway) -> _Halfway:
    sums = work.so_far
    return _Halfway(
        step=sums.step,
        loss_sum=_number(sums.loss_sum),
        weight_sum=sums.weight_sum,
        visits=sums.visits,
        tokens=sums.tokens,
        nonfinite=sums.nonfinite,
        events=_from_events(work.events),
        adapter=_vector(work.adapter_P),
        slots=tuple(_Slot(name=name.encode(), vector=_vector(vector_P)) for name, vector_P in work.slots),
    )


def _to_halfway(stored: _Halfway, *, size: int) -> Halfway:
    sums = SoFar(
        step=stored.step,
        loss_sum=_float(stored.loss_sum),
        weight_sum=stored.weight_sum,
        visits=stored.visits,
        tokens=stored.tokens,
        nonfinite=stored.nonfinite,
    )
    if sums.step == 0 and (stored.adapter or stored.slots or stored.events):
        raise WireError(f"message {_Halfway.LABEL}: found results of no step; it was dropped")
    events = _to_events(stored.events)
    if events and sum(e.steps for e in events) != sums.step:
        raise WireError(f"message {_Halfway.LABEL}: found events of other steps; it was dropped")
    return Halfway(
        so_far=sums,
        adapter_P=_floats(stored.adapter, size=size if sums.step else 0),
        slots=tuple((_text(slot.name), _floats(slot.vector, size=size)) for slot in stored.slots),
        events=events,
    )


def _from_update(update: LocalUpdate) -> _Waiting:
    return _Waiting(
        loss=_number(update.loss),
        visits=update.visits,
        tokens=update.tokens,
        nonfinite=update.nonfinite,
        events=_from_events(update.events),
        update=_vector(update.update_P),
    )


def _to_update(stored: _Waiting, *, size: int) -> LocalUpdate:
    return LocalUpdate(
        update_P=_floats(stored.update, size=size),
        loss=_float(stored.loss),
        visits=stored.visits,
        tokens=stored.tokens,
        nonfinite=stored.nonfinite,
        events=_to_events(stored.events),
    )


def _from_events(events: tuple[StepEvents, ...]) -> tuple[_Events, ...]:
    return tuple(
        _Events(
            rate=_number(e.sampling_rate),
            multiplier=_number(e.noise_multiplier),
            steps=e.steps,
            unit=_UNITS.index(e.unit),
        )
        for e in events
    )


def _to_events(stored: tuple[_Events, ...]) -> tuple[StepEvents, ...]:
    try:
        return tuple(
            StepEvents(
                sampling_rate=_float(e.rate),
                noise_multiplier=_float(e.multiplier),
                steps=e.steps,
                unit="patient" if _UNITS[e.unit] == "patient" else "record",
            )
            for e in stored
        )
    except (ValueError, IndexError) as err:
        raise WireError("message unfinished work: found impossible events; it was dropped") from err


def _number(value: float) -> bytes:
    return struct.pack("<d", value)


def _float(data: bytes) -> float:
    value: float = struct.unpack("<d", data)[0]
    return value


def _vector(vector_P: FloatVec) -> bytes:
    return np.ascontiguousarray(vector_P, dtype="<f4").tobytes()


def _floats(data: bytes, *, size: int) -> FloatVec:
    if len(data) != 4 * size:
        raise WireError(f"message unfinished work: found a vector of {len(data)} bytes, expected {4 * size}")
    return np.frombuffer(data, dtype="<f4").astype(np.float32)


def _text(data: bytes) -> str:
    try:
        return data.decode("ascii")
    except UnicodeDecodeError as err:
        raise WireError("message unfinished work: found a name that is no word; it was dropped") from err
