"""From a step's sample to passes through the model: as many records at once as memory holds.

How a sample is cut changes the speed and nothing else.

B records of a pass, N of a sample, R of a site.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from partsong.client.data.batch import by_length
from partsong.client.dp.sampler import Drawn, PatientSampler, PoissonSampler

Indices = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Patients:
    """Whose records a pass holds."""

    unit_B: Indices
    """Numbers that never fall within a sample; a patient who does not fit into a pass goes on in the next."""
    share_B: NDArray[np.float32]
    """Weight of each record in its patient's mean."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Pass:
    """Records that go through the model together."""

    record_B: Indices
    patients: Patients | None = None
    """None: each record stands for itself."""

    def __len__(self) -> int:
        """Count the records."""
        return len(self.record_B)

    def halves(self) -> tuple[Pass, Pass]:
        """Cut in two, order kept; for at least two records."""
        middle = len(self) // 2
        return self._part(slice(middle)), self._part(slice(middle, None))

    def _part(self, part: slice) -> Pass:
        if self.patients is None:
            return Pass(record_B=self.record_B[part])
        patients = Patients(unit_B=self.patients.unit_B[part], share_B=self.patients.share_B[part])
        return Pass(record_B=self.record_B[part], patients=patients)


def draw(sampler: PoissonSampler | PatientSampler, length_R: Indices, *, records: int, grouped: bool) -> list[Pass]:
    """Draw one step's sample and cut it into passes.

    Guarantees: every drawn record is in one pass; the records of a patient follow one another, also across passes.
    Args:
        sampler: of records or of patients.
        length_R: tokens of every record of the site.
        records: most of a pass, >= 1.
        grouped: bring records (or patients) of like length together, the longest first.
    """
    if isinstance(sampler, PatientSampler):
        return _patients(sampler.sample(), length_R, records=records, grouped=grouped)
    record_N = sampler.sample()
    if grouped:
        return [Pass(record_B=chosen) for chosen in by_length(record_N, length_R, batch_size=records)]
    return [Pass(record_B=record_N[i : i + records]) for i in range(0, len(record_N), records)]


def _patients(drawn: Drawn, length_R: Indices, *, records: int, grouped: bool) -> list[Pass]:
    place_N = np.arange(len(drawn.record_N))
    if grouped and len(place_N):
        longest_U = np.zeros(int(drawn.unit_N[-1]) + 1, dtype=np.int64)
        np.maximum.at(longest_U, drawn.unit_N, length_R[drawn.record_N])
        place_N = np.lexsort((drawn.unit_N, -longest_U[drawn.unit_N]))
    record_N, share_N = drawn.record_N[place_N], drawn.share_N[place_N]
    unit_N = drawn.unit_N[place_N]
    number_N = np.cumsum(np.diff(unit_N, prepend=unit_N[:1]) != 0)
    return [
        Pass(
            record_B=record_N[i : i + records],
            patients=Patients(unit_B=number_N[i : i + records], share_B=share_N[i : i + records]),
        )
        for i in range(0, len(record_N), records)
    ]
