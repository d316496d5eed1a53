"""What the operator of a site is told about the site's patients."""

import dataclasses
from collections.abc import Callable

import pytest

from partsong.client.budget.patients import MOST_RECORDS, PatientView, patient_view
from partsong.client.data.encode import Record
from partsong.common import wire
from partsong.common.config import TrainingConfig
from partsong.common.plan import Plan
from partsong.common.privacy.accounting import epsilon, patient_epsilon
from partsong.common.privacy.terms import DpPlan

MakePlan = Callable[..., Plan]
MakeDp = Callable[..., DpPlan]
MakeRecords = Callable[..., tuple[Record, ...]]
SHORT = TrainingConfig(steps_per_round=1)


def owned(records: tuple[Record, ...], owners: str) -> tuple[Record, ...]:
    return tuple(dataclasses.replace(r, unit=owner) for r, owner in zip(records, owners, strict=True))


def test_a_record_level_plan_is_translated_for_one_record_the_median_and_the_most(
    make_plan: MakePlan, make_dp: MakeDp, make_records: MakeRecords
) -> None:
    """Patients a, b, c with one, two and four records; the first is the plan's own epsilon."""
    plan = make_plan(dp=make_dp(noise_multiplier=3.0), training=SHORT)
    view = patient_view(plan, owned(make_records((4,) * 7), "abbcccc"))

    assert view is not None
    assert (view.patients, view.median_records, view.most_records, view.over_bound) == (3, 2, 4, 0)
    assert [records for records, _ in view.epsilons] == [1, 2, 4]
    events = plan.dp.events(steps=plan.steps, size=8)
    assert view.epsilons[0][1] == epsilon([events], delta=1e-4).epsilon
    assert view.epsilons[2][1] == patient_epsilon(events, delta=1e-4, records=4)
    assert view.epsilons[0][1] < view.epsilons[1][1] < view.epsilons[2][1]
    said = " ".join(view.lines())
    assert "3 patients, with a median of 2 and at most 4 records" in said
    assert f"{view.epsilons[2][1]:.3g} for a patient with 4" in said


def test_a_patient_with_very_many_records_is_not_computed_for_minutes(
    make_plan: MakePlan, make_dp: MakeDp, make_records: MakeRecords
) -> None:
    """Above the limit it is said that epsilon is larger."""
    plan = make_plan(dp=make_dp(noise_multiplier=4.0), training=SHORT, rounds=1)

    view = patient_view(plan, owned(make_records((4,) * 21), "a" * 20 + "b"))

    assert view is not None
    assert [records for records, _ in view.epsilons] == [1, MOST_RECORDS]
    assert f"more for those with over {MOST_RECORDS}" in " ".join(view.lines())


def test_a_patient_level_plan_says_what_its_bound_leaves_out(
    make_plan: MakePlan, make_dp: MakeDp, make_records: MakeRecords
) -> None:
    """Nothing to translate; c has more records than a step uses."""
    plan = make_plan(dp=make_dp(unit="patient", contribution_bound=2))

    view = patient_view(plan, owned(make_records((4,) * 6), "abbccc"))

    assert view is not None
    assert (view.epsilons, view.over_bound) == ((), 1)
    assert "1 of them have more than a step uses" in view.lines()[0]


@pytest.mark.parametrize("owners", ["", "ab"])
def test_where_there_is_nothing_to_say_nothing_is_said(
    make_plan: MakePlan, make_dp: MakeDp, make_records: MakeRecords, owners: str
) -> None:
    """No privacy, or records without owners, be it a few of them."""
    records = make_records((4, 4, 4))
    some = (*owned(records[: len(owners)], owners), *records[len(owners) :])

    assert patient_view(make_plan(dp=make_dp()), some) is None
    assert patient_view(make_plan(), owned(records, "abc")) is None


def test_no_message_has_a_place_for_it() -> None:
    """None of its names occurs in any message of a site."""
    own = {f.name for f in dataclasses.fields(PatientView)} - {"unit", "delta"}

    sent = {f.name for kind in (wire.Accept, wire.Refuse, wire.Ready, wire.Report) for f in dataclasses.fields(kind)}

    assert len(own) == 5
    assert not own & sent
