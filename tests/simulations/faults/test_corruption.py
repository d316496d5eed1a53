"""A corrupt site's answer is changed in the way that the script says."""

import numpy as np
import pytest

from partsong.common import wire
from partsong.server.exchange import Parcel
from partsong.simulations.faults.corruption import corrupted

ANSWER = Parcel(header=b"header", vector=b"vector", note=b"note")
OTHER = Parcel(header=b"other")


def bits(one: Parcel, two: Parcel) -> int:
    """How many bits differ."""
    joined = [p.header + p.vector + p.note for p in (one, two)]
    return sum((a ^ b).bit_count() for a, b in zip(*joined, strict=True))


@pytest.mark.parametrize("seed", range(5))
def test_a_flip_changes_one_bit(seed: int) -> None:
    """Wherever it is drawn."""
    changed = corrupted(ANSWER, "flip", site="a", other=None, rng=np.random.default_rng(seed))
    assert bits(ANSWER, changed) == 1


def test_garbage_keeps_header_and_lengths() -> None:
    """So that only what is inside can give it away."""
    changed = corrupted(ANSWER, "garbage", site="a", other=None, rng=np.random.default_rng(0))
    assert (changed.header, len(changed.vector), len(changed.note)) == (b"header", 6, 4)
    assert changed != ANSWER


def test_a_foreign_answer_is_another_sites() -> None:
    """Garbage, where nobody has answered yet."""
    rng = np.random.default_rng(0)
    assert corrupted(ANSWER, "foreign", site="a", other=OTHER, rng=rng) is OTHER
    assert corrupted(ANSWER, "foreign", site="a", other=None, rng=rng).header == b"header"


def test_a_refusal_is_one() -> None:
    """By the site's own name."""
    said = corrupted(ANSWER, "refuse", site="a", other=None, rng=np.random.default_rng(0))
    assert wire.decode(said.header, wire.Refuse) == wire.Refuse(site="a", code="policy")
