"""What a lying coordinator sends instead of what it should. Each lie is one that a site alone can see through.

Signed where the coordinator signs, so that it is the content that gives a lie away.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from partsong.common import wire
from partsong.common.adapters.adapter import digest
from partsong.common.codec import pack, unpack
from partsong.common.identity.keys import Signer
from partsong.common.secure_sum.messages import Header, Open, sign
from partsong.common.secure_sum.opened import model_hash
from partsong.server.exchange import Parcel
from partsong.simulations.faults.script import Lie, Phase


@dataclass(kw_only=True, slots=True)
class Liar:
    """A coordinator that remembers what it said, and can sign something else."""

    signer: Signer | None
    """None: the plan is unmasked, and nothing is signed."""
    said: dict[tuple[str, Phase], Parcel] = field(default_factory=dict)
    """The last question of each phase to each site."""

    def remember(self, site: str, phase: Phase, parcel: Parcel) -> None:
        """Note a question that went out."""
        self.said[site, phase] = parcel

    def lie(self, lie: Lie, parcel: Parcel, *, site: str, phase: Phase) -> Parcel:
        """Change a question; one that this lie cannot be told about stays as it is."""
        if phase == "roster" and lie == "short_roster":
            return _without_one_name(parcel)
        if phase != "open":
            return parcel
        match lie:
            case "other_adapter":
                return self._other_adapter(parcel)
            case "other_vector":
                return replace(parcel, vector=wire.vector_bytes(_other(parcel)))
            case "other_result":
                return _other_result(parcel)
            case "replay":
                return self.said.get((site, "open"), parcel)
            case "begin_again":
                return self.said.get((site, "begin"), parcel)
            case _:
                return parcel

    def _other_adapter(self, parcel: Parcel) -> Parcel:
        """Name another adapter rightly, in the header and in what is signed."""
        vector_P = _other(parcel)
        message = replace(wire.decode(parcel.header, wire.Open), adapter_sha256=digest(vector_P))
        note = parcel.note
        if self.signer is not None and note:
            opened = unpack(Open, note)
            header = replace(unpack(Header, opened.header.body), model=model_hash(digest(vector_P)))
            note = pack(replace(opened, header=sign(header, self.signer)))
        return Parcel(header=wire.encode(message), vector=wire.vector_bytes(vector_P), note=note)


def _other(parcel: Parcel) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    return np.frombuffer(parcel.vector, np.float32) + np.float32(0.5)


def _other_result(parcel: Parcel) -> Parcel:
    opened = unpack(Open, parcel.note) if parcel.note else None
    if opened is None or not opened.result:
        return parcel
    changed = bytearray(opened.result)
    changed[len(changed) // 2] ^= 1
    return replace(parcel, note=pack(replace(opened, result=bytes(changed))))


def _without_one_name(parcel: Parcel) -> Parcel:
    message = wire.decode(parcel.header, wire.Roster)
    return replace(parcel, header=wire.encode(replace(message, sites=message.sites[:-1])))
