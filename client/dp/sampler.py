"""Which records a step sees: each on its own, or each patient on their own, with one known probability.

Covers: the independence and secrecy of the sample, drawn from the operating system, on which the accounting of Poisson
    subsampling rests.
Does not cover: an observer of the machine, who sees how long a step takes and with it the size of the sample.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from partsong.common.errors import Refused
from partsong.common.privacy.accounting import largest_batch

Indices = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]

WORD_VALUES = 2**64


class Randomness(Protocol):
    """Where a sampler's random words come from."""

    @property
    def repeatable(self) -> bool:
        """Whether someone can draw the same words again; then no privacy may be claimed."""

    def words(self, count: int) -> Words:
        """Draw `count` independent, uniform 64-bit words."""


class SystemRandomness:
    """The operating system's generator, the only source where privacy is promised."""

    repeatable = False

    def words(self, count: int) -> Words:
        """Draw `count` independent, uniform 64-bit words."""
        return np.frombuffer(os.urandom(8 * count), dtype=np.uint64)


class SeededRandomness:
    """Repeatable words for simulations without noise; refused wherever noise is added."""

    repeatable = True

    def __init__(self, seed: bytes) -> None:
        """Start the stream that belongs to `seed`."""
        key = np.frombuffer(hashlib.sha256(seed).digest()[:16], dtype=np.uint64)
        self._stream = np.random.Generator(np.random.Philox(key=key))

    def words(self, count: int) -> Words:
        """Draw the next `count` words of the stream."""
        return np.frombuffer(self._stream.bytes(8 * count), dtype=np.uint64)


class PoissonSampler:
    """Draws the samples of one dataset, one per step.

    Guarantees:
        - each record is in a sample with probability `rate` (to within 2**-64), independently of the others and of
          earlier samples;
        - a sample above `largest_batch(records=size, sampling_rate=rate)` loses a uniformly random part of itself;
          `StepEvents.at_site` accounts for that;
        - a sample may be empty; the step must be made nevertheless.
    """

    def __init__(self, size: int, rate: float, *, randomness: Randomness | None = None) -> None:
        """Fix what is sampled and how densely.

        Args:
            size: number of records, >= 1.
            rate: chance of each record per step, (0, 1].
            randomness: the operating system's if left out.
        """
        if size < 1:
            raise ValueError(f"a dataset of at least one record, not {size}")
        if not 0 < rate <= 1:
            raise ValueError(f"a sampling rate in (0, 1], not {rate}")
        self.size, self.rate = size, rate
        self.max_batch = largest_batch(records=size, sampling_rate=rate)
        self._randomness = randomness or SystemRandomness()

    @property
    def repeatable(self) -> bool:
        """Whether the samples come from a seed."""
        return self._randomness.repeatable

    def sample(self) -> Indices:
        """Draw one sample: sorted, distinct indices in [0, size), at most `max_batch` of them."""
        threshold = int(self.rate * WORD_VALUES)
        if threshold >= WORD_VALUES:
            return np.arange(self.size, dtype=np.int64)
        chosen = np.flatnonzero(self._randomness.words(self.size) < np.uint64(threshold)).astype(np.int64)
        return self._cut(chosen) if len(chosen) > self.max_batch else chosen

    def _cut(self, chosen: Indices) -> Indices:
        """Keep a uniformly random subset of `max_batch` indices: those with the smallest random words.

        Two words tie with probability below len(chosen)**2 / 2**65, which no sample size makes visible.
        """
        order = np.argsort(self._randomness.words(len(chosen)), kind="stable")
        return np.sort(chosen[order[: self.max_batch]])


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Drawn:
    """One step's sample of patients."""

    record_N: Indices
    """Records, those of one patient next to one another."""
    unit_N: Indices
    """Whose each one is: 0 for the first patient of the sample, 1 for the second, ..."""
    share_N: npt.NDArray[np.float32]
    """One over the number of the patient's records in the sample: losses times this add up to the patient's mean."""


class PatientSampler:
    """Draws patients, and of each of them at most a number of records.

    Guarantees:
        - patients are drawn as `PoissonSampler` draws records;
        - of a patient with more than `contribution_bound` records a uniformly random set of that many is taken, anew
          in each sample. The choice is part of the mechanism: it depends on nothing but the number of the patient's
          own records and randomness of its own, so that no other patient's contribution changes with it.
    """

    def __init__(
        self,
        unit_R: Sequence[Hashable],
        rate: float,
        *,
        contribution_bound: int,
        randomness: Randomness | None = None,
    ) -> None:
        """Fix what is sampled and how densely.

        Args:
            unit_R: whose record each one is; R >= 1.
            rate: chance of each patient per step, (0, 1].
            contribution_bound: most records of a patient in a sample, >= 1.
            randomness: the operating system's if left out.
        """
        if contribution_bound < 1:
            raise ValueError(f"a contribution bound of at least one record, not {contribution_bound}")
        groups: dict[Hashable, list[int]] = {}
        for index, unit in enumerate(unit_R):
            groups.setdefault(unit, []).append(index)
        self._records = [np.array(group, dtype=np.int64) for group in groups.values()]
        self._randomness = randomness or SystemRandomness()
        self._patients = PoissonSampler(len(groups), rate, randomness=self._randomness)
        self._bound = contribution_bound
        self.size, self.rate = self._patients.size, rate

    @property
    def repeatable(self) -> bool:
        """Whether the samples come from a seed."""
        return self._randomness.repeatable

    def sample(self) -> Drawn:
        """Draw one sample; it may be empty."""
        chosen = [self._some(self._records[patient]) for patient in self._patients.sample()]
        sizes = np.array([len(records) for records in chosen], dtype=np.int64)
        return Drawn(
            record_N=np.concatenate([np.empty(0, dtype=np.int64), *chosen]),
            unit_N=np.repeat(np.arange(len(chosen)), sizes),
            share_N=np.repeat(1 / np.maximum(sizes, 1), sizes).astype(np.float32),
        )

    def _some(self, records: Indices) -> Indices:
        if len(records) <= self._bound:
            return records
        order = np.argsort(self._randomness.words(len(records)), kind="stable")  # ties: see PoissonSampler._cut
        return np.sort(records[order[: self._bound]])


def require_unpredictable(sampler: PoissonSampler | PatientSampler) -> None:
    """Refuse a seeded sampler where noise is added.

    Raises:
        Refused: `predictable_sample`; nothing was sampled.
    """
    if sampler.repeatable:
        raise Refused(
            "predictable_sample",
            reason="who guesses the seed knows which records a step used, and amplification by sampling is gone",
            remedy="use the operating system's randomness, or switch privacy off by name",
        )
