"""What a plan's guarantee means for the patients of one site: for the site's own eyes.

Covers: patients with several records at this site, where records are the unit; what the contribution bound leaves out,
    where patients are.
Does not cover: a patient who is at other sites too.

The numbers describe private records. They are shown to the site's operator and kept in its own files; no message has a
place for them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from partsong.client.data.encode import Record
from partsong.common.plan import Plan
from partsong.common.privacy.accounting import Unit, patient_epsilon

MOST_RECORDS = 8
"""Epsilon is computed for patients of up to this many records, in a second or two; beyond, it is only larger."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PatientView:
    """One site's patients under one plan."""

    unit: Unit
    """Of the plan."""
    delta: float
    patients: int
    median_records: int
    """Of a patient; at least half of the patients have as many or fewer."""
    most_records: int
    over_bound: int
    """Patients with more records than one step may use; 0 where records are the unit."""
    epsilons: tuple[tuple[int, float], ...]
    """Number of records, and what the whole plan costs a patient with as many: one record, the median, the most, none
    above `MOST_RECORDS`. Empty where patients are the unit: the plan's own epsilon holds for all."""

    def lines(self) -> tuple[str, ...]:
        """Say it to the operator."""
        about = (
            f"{self.patients} patients, with a median of {self.median_records} and at most {self.most_records} records"
        )
        if self.unit == "patient":
            return (f"{about}; {self.over_bound} of them have more than a step uses, which it draws at random",)
        means = ", ".join(f"{value:.3g} for a patient with {records}" for records, value in self.epsilons)
        more = f"; more for those with over {MOST_RECORDS}" if self.most_records > MOST_RECORDS else ""
        return (
            about,
            f"the plan hides single records; over all its rounds epsilon at delta {self.delta:g} means {means}{more}",
            "privacy.unit=patient would hide patients as a whole",
        )


def patient_view(plan: Plan, records: Sequence[Record]) -> PatientView | None:
    """Look at a plan from the side of this site's patients.

    Args:
        plan: as proposed or accepted.
        records: of the site.
    Returns:
        None where there is nothing to say: no differential privacy, or records that do not say whose they are.
    """
    owners = [record.unit for record in records if record.unit is not None]
    if plan.dp is None or not owners or len(owners) != len(records):
        return None
    sizes = sorted(Counter(owners).values())
    median, most = sizes[(len(sizes) - 1) // 2], sizes[-1]
    bound = plan.dp.contribution_bound
    return PatientView(
        unit=plan.dp.unit,
        delta=plan.dp.delta,
        patients=len(sizes),
        median_records=median,
        most_records=most,
        over_bound=0 if bound is None else int((np.array(sizes) > bound).sum()),
        epsilons=_epsilons(plan, {1, median, min(most, MOST_RECORDS)}) if bound is None else (),
    )


def _epsilons(plan: Plan, sizes: set[int]) -> tuple[tuple[int, float], ...]:
    if plan.dp is None:
        raise AssertionError("the caller has checked that the plan has privacy terms")
    events = plan.events(steps=plan.steps)
    return tuple(
        (size, patient_epsilon(events, delta=plan.dp.delta, records=size))
        for size in sorted(sizes)
        if size <= MOST_RECORDS
    )
