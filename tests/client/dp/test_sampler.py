"""Samples are Poisson, unpredictable, and cut where they grow beyond their bound."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from partsong.client.dp.sampler import (
    PatientSampler,
    PoissonSampler,
    SeededRandomness,
    SystemRandomness,
    require_unpredictable,
)
from partsong.common.errors import Refused


class Dense:
    """Words that choose every record, then cut in a known order: largest index first."""

    repeatable = True

    def __init__(self) -> None:
        self.calls = 0

    def words(self, count: int) -> np.ndarray:
        self.calls += 1
        return np.zeros(count, dtype=np.uint64) if self.calls == 1 else np.arange(count, dtype=np.uint64)[::-1].copy()


@settings(deadline=None, max_examples=50)
@given(size=st.integers(1, 500), rate=st.floats(1e-6, 1.0), seed=st.binary())
def test_a_sample_is_sorted_distinct_and_bounded(size: int, rate: float, seed: bytes) -> None:
    """Indices are valid, increasing, and no more than the cap."""
    sampler = PoissonSampler(size, rate, randomness=SeededRandomness(seed))

    drawn = sampler.sample()

    assert drawn.dtype == np.int64
    assert np.all(np.diff(drawn) > 0)
    assert len(drawn) <= sampler.max_batch <= size
    assert len(drawn) == 0 or (drawn[0] >= 0 and drawn[-1] < size)


@pytest.mark.parametrize("rate", [0.03, 0.5])
def test_inclusions_are_binomial_and_independent(rate: float) -> None:
    """Counts per step and per record follow the binomial law; a rate a tenth off is told apart."""
    sampler = PoissonSampler(400, rate, randomness=SeededRandomness(b"binomial"))
    steps = 500

    hits = np.zeros((steps, 400), dtype=bool)
    for step in range(steps):
        hits[step, sampler.sample()] = True

    assert stats.binomtest(int(hits.sum()), hits.size, rate).pvalue > 1e-3
    assert stats.binomtest(int(hits.sum()), hits.size, 1.1 * rate).pvalue < 1e-3
    for axis, trials in ((0, steps), (1, 400)):
        variance = hits.sum(axis).var() / (trials * rate * (1 - rate))
        assert 0.7 < variance < 1.3
    lagged = np.corrcoef(hits[:-1].ravel(), hits[1:].ravel())[0, 1]
    assert abs(lagged) < 4 / np.sqrt(hits.size)


def test_rate_one_takes_everyone() -> None:
    """The limit of Poisson sampling is the whole dataset."""
    assert np.array_equal(PoissonSampler(7, 1.0).sample(), np.arange(7))


def test_a_small_rate_may_draw_nobody() -> None:
    """An empty sample is a result like any other."""
    assert len(PoissonSampler(1, 1e-9, randomness=SeededRandomness(b"")).sample()) == 0


def test_a_sample_above_the_cap_loses_a_random_part() -> None:
    """Who stays is decided by further random words, not by the order of records."""
    sampler = PoissonSampler(1000, 0.01, randomness=Dense())

    drawn = sampler.sample()

    assert np.array_equal(drawn, np.arange(1000 - sampler.max_batch, 1000))


def test_every_record_is_as_likely_to_be_cut() -> None:
    """Over many cuts all survive equally often: chi-square at 99.9 %, and a fixed order fails it."""
    sampler = PoissonSampler(50, 0.02, randomness=SeededRandomness(b"cut"))
    everyone, trials = np.arange(50), 2000
    kept = np.bincount(np.concatenate([sampler._cut(everyone) for _ in range(trials)]), minlength=50)
    fixed = np.where(everyone < sampler.max_batch, trials, 0)

    expected = trials * sampler.max_batch / 50

    bound = stats.chi2.ppf(0.999, 49)
    assert ((kept - expected) ** 2 / expected).sum() < bound < ((fixed - expected) ** 2 / expected).sum()


def test_a_seed_repeats_the_system_does_not() -> None:
    """Equal seeds, equal samples; the operating system never draws the same again."""

    def draw(randomness: object) -> list[int]:
        return PoissonSampler(10_000, 0.5, randomness=randomness).sample().tolist()

    assert draw(SeededRandomness(b"a")) == draw(SeededRandomness(b"a"))
    assert draw(SeededRandomness(b"a")) != draw(SeededRandomness(b"b"))
    assert draw(SystemRandomness()) != draw(SystemRandomness())


def test_a_seeded_sampler_is_refused_where_noise_is_added() -> None:
    """Only the operating system's randomness passes."""
    require_unpredictable(PoissonSampler(5, 0.5))

    with pytest.raises(Refused, match="predictable_sample"):
        require_unpredictable(PoissonSampler(5, 0.5, randomness=SeededRandomness(b"x")))


@pytest.mark.parametrize(("size", "rate"), [(0, 0.5), (5, 0.0), (5, 1.1), (5, float("nan"))])
def test_impossible_samplers_are_refused(size: int, rate: float) -> None:
    """There is no sample of nothing and no rate beyond certainty."""
    with pytest.raises(ValueError, match=r"one record|sampling rate"):
        PoissonSampler(size, rate)


@settings(deadline=None, max_examples=50)
@given(
    owners=st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=60),
    rate=st.floats(1e-3, 1.0),
    bound=st.integers(1, 5),
    seed=st.binary(),
)
def test_patients_come_whole_or_up_to_the_bound(owners: list[str], rate: float, bound: int, seed: bytes) -> None:
    """Each drawn patient once, with all records or exactly the bound, next to one another, with equal shares."""
    sampler = PatientSampler(owners, rate, contribution_bound=bound, randomness=SeededRandomness(seed))

    drawn = sampler.sample()

    found = [owners[i] for i in drawn.record_N]
    assert sampler.size == len(set(owners))
    assert len(set(drawn.record_N.tolist())) == len(found)
    assert drawn.unit_N.tolist() == sorted(drawn.unit_N.tolist())
    assert (
        len(set(zip(drawn.unit_N.tolist(), found, strict=True))) == len(set(drawn.unit_N.tolist())) == len(set(found))
    )
    for owner in set(found):
        assert found.count(owner) == min(bound, owners.count(owner))
    shares = np.bincount(drawn.unit_N, weights=drawn.share_N) if found else np.ones(0)
    assert shares == pytest.approx(np.ones(len(set(found))), rel=1e-6)


def test_patients_are_drawn_at_the_rate_whatever_the_number_of_their_records() -> None:
    """A patient with fifty records is no likelier than one with one; drawing records would find them nearly always."""
    owners = ["many"] * 50 + [f"one {i}" for i in range(50)]
    sampler = PatientSampler(owners, 0.1, contribution_bound=4, randomness=SeededRandomness(b"patients"))
    steps, hits = 4000, np.zeros(100, dtype=np.int64)

    for _ in range(steps):
        hits[sampler.sample().record_N] += 1

    times_many = hits[:50].sum() / 4
    assert stats.binomtest(int(times_many), steps, 0.1).pvalue > 1e-3
    assert stats.binomtest(int(hits[50:].sum()), 50 * steps, 0.1).pvalue > 1e-3
    assert stats.binomtest(int(times_many), steps, 1 - 0.9**50).pvalue < 1e-3


def test_every_record_of_a_patient_is_as_likely_to_be_taken() -> None:
    """Chi-square at 99.9 % over ten records of which three are taken; the first three always fails it."""
    sampler = PatientSampler(["p"] * 10, 1.0, contribution_bound=3, randomness=SeededRandomness(b"records"))
    trials = 3000
    taken = np.bincount(np.concatenate([sampler.sample().record_N for _ in range(trials)]), minlength=10)
    fixed = np.where(np.arange(10) < 3, trials, 0)

    expected = trials * 3 / 10

    bound = stats.chi2.ppf(0.999, 9)
    assert ((taken - expected) ** 2 / expected).sum() < bound < ((fixed - expected) ** 2 / expected).sum()


def test_a_sample_of_patients_may_be_empty() -> None:
    """Arrays of length 0, not an error."""
    drawn = PatientSampler(["a", "b"], 1e-9, contribution_bound=2, randomness=SeededRandomness(b"")).sample()

    assert (len(drawn.record_N), len(drawn.unit_N), len(drawn.share_N)) == (0, 0, 0)


def test_seeded_and_impossible_samplers_of_patients_are_refused() -> None:
    """As those of records are."""
    require_unpredictable(PatientSampler(["a"], 0.5, contribution_bound=1))

    with pytest.raises(Refused, match="predictable_sample"):
        require_unpredictable(PatientSampler(["a"], 0.5, contribution_bound=1, randomness=SeededRandomness(b"x")))
    with pytest.raises(ValueError, match="contribution bound"):
        PatientSampler(["a"], 0.5, contribution_bound=0)
    with pytest.raises(ValueError, match="one record"):
        PatientSampler([], 0.5, contribution_bound=1)
