"""A sample becomes passes; nothing is lost, and no patient comes apart."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partsong.client.dp.sampler import PatientSampler, PoissonSampler, SeededRandomness
from partsong.client.training.passes import Pass, draw

SIZES = {"records": st.integers(1, 7), "grouped": st.booleans(), "seed": st.binary(max_size=4)}


@settings(deadline=None, max_examples=60)
@given(owners=st.lists(st.integers(0, 9), min_size=1, max_size=40), **SIZES)
def test_patients_stay_together_in_whatever_passes(
    owners: list[int], records: int, seed: bytes, *, grouped: bool
) -> None:
    """Numbers never fall, each stands for one patient, shares add up to one, and every drawn record is there once."""
    length_R = np.array([3 + (7 * i) % 11 for i in range(len(owners))])

    def sampler() -> PatientSampler:
        return PatientSampler(owners, 0.7, contribution_bound=3, randomness=SeededRandomness(seed))

    passes = draw(sampler(), length_R, records=records, grouped=grouped)

    assert all(1 <= len(p) <= records for p in passes)
    rows = [
        (int(unit), owners[i], float(share), int(i))
        for p in passes
        for unit, share, i in zip(p.patients.unit_B, p.patients.share_B, p.record_B, strict=True)
    ]
    units = [unit for unit, *_ in rows]
    assert units == sorted(units)
    assert len({(unit, owner) for unit, owner, *_ in rows}) == len(set(units)) == len({owner for _, owner, *_ in rows})
    for unit in set(units):
        assert sum(share for u, _, share, _ in rows if u == unit) == pytest.approx(1)
    assert sorted(i for *_, i in rows) == sorted(sampler().sample().record_N.tolist())


@settings(deadline=None, max_examples=40)
@given(size=st.integers(1, 40), **SIZES)
def test_records_are_all_there_once(size: int, records: int, seed: bytes, *, grouped: bool) -> None:
    """The passes hold the sample, sorted by length or as drawn."""
    length_R = np.array([3 + (7 * i) % 11 for i in range(size)])
    drawn = PoissonSampler(size, 0.5, randomness=SeededRandomness(seed)).sample()

    passes = draw(
        PoissonSampler(size, 0.5, randomness=SeededRandomness(seed)), length_R, records=records, grouped=grouped
    )

    found = [int(i) for p in passes for i in p.record_B]
    assert sorted(found) == drawn.tolist()
    assert not grouped or np.all(np.diff(length_R[found]) <= 0)
    assert all(p.patients is None for p in passes)


def test_the_longest_patient_comes_first() -> None:
    """So that memory runs out in the first pass or not at all; a patient counts by the longest record."""
    sampler = PatientSampler(["a", "b", "a", "c"], 1.0, contribution_bound=2, randomness=SeededRandomness(b""))

    passes = draw(sampler, np.array([2, 5, 9, 7]), records=2, grouped=True)

    assert [p.record_B.tolist() for p in passes] == [[0, 2], [3, 1]]
    assert [p.patients.unit_B.tolist() for p in passes] == [[0, 0], [1, 2]]


def test_halves_keep_order_and_owners() -> None:
    """Three records of one patient become one and two."""
    sampler = PatientSampler(["a"] * 3, 1.0, contribution_bound=3, randomness=SeededRandomness(b""))
    (whole,) = draw(sampler, np.array([1, 1, 1]), records=8, grouped=False)

    first, second = whole.halves()

    assert (first.record_B.tolist(), second.record_B.tolist()) == ([0], [1, 2])
    assert (first.patients.unit_B.tolist(), second.patients.unit_B.tolist()) == ([0], [0, 0])
    assert Pass(record_B=np.arange(4)).halves()[0].patients is None
