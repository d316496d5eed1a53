"""The plan: what it refuses, its digest, and the clip that it derives."""

import math
from collections.abc import Callable
from typing import Any

import pytest

from partsong.common.adapters.turns import Turn
from partsong.common.build import build, to_tree
from partsong.common.config import ServerOptimizerConfig, TrainingConfig
from partsong.common.errors import ConfigError
from partsong.common.plan import Plan, is_name, rotation_seed
from partsong.common.privacy.accounting import StepEvents
from partsong.common.privacy.terms import DpPlan

MakePlan = Callable[..., Plan]
MakeDp = Callable[..., DpPlan]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("rounds", 0),
        ("rounds", -1),
        ("rounds", 10**9),
        ("minimum_cohort", 0),
        ("minimum_cohort", 6),
        ("sampling_rate", 0.0),
        ("sampling_rate", 1.5),
        ("sampling_rate", -0.1),
        ("sampling_rate", math.nan),
        ("max_length", 0),
        ("labels", ("a", "b")),
        ("run", ""),
        ("run", "a\nb"),
        ("run", "\x1b[2J"),
        ("run", "x" * 201),
    ],
)
def test_a_plan_out_of_bounds_is_refused(make_plan: MakePlan, field: str, value: object) -> None:
    """Numbers that no honest coordinator sends never become a plan."""
    with pytest.raises(ValueError):  # noqa: PT011 - one text for each bound
        make_plan(**{field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [("rounds", 1), ("minimum_cohort", 1), ("minimum_cohort", 5), ("sampling_rate", 1.0), ("run", "Lauf 7, Süd")],
)
def test_values_at_the_bounds_are_accepted(make_plan: MakePlan, field: str, value: object) -> None:
    """Control: the neighbours of what is refused make a plan."""
    assert getattr(make_plan(**{field: value}), field) == value


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *((f, v) for f in ("epsilon", "clip_norm", "loss_clip") for v in (0.0, -1.0, math.inf, math.nan)),
        *((f, v) for f in ("noise_multiplier", "loss_noise_multiplier") for v in (0.0, -1.0, 1e-9, math.inf, math.nan)),
        *(("delta", v) for v in (0.0, 1.0, -1e-5, math.nan)),
        *(("sampling_rate", v) for v in (0.0, 1.01, math.nan)),
    ],
)
def test_privacy_terms_out_of_bounds_are_refused(make_dp: MakeDp, field: str, value: float) -> None:
    """No noise, no clip, or a delta that promises nothing."""
    assert make_dp()

    with pytest.raises(ValueError):  # noqa: PT011 - one text for each bound
        make_dp(**{field: value})


def test_labels_belong_to_classification(make_plan: MakePlan) -> None:
    """The closed list is there exactly where classes are learned, without repeats."""
    assert make_plan(task="classification", labels=("a", "b")).labels == ("a", "b")

    for labels in ((), ("a", "a")):
        with pytest.raises(ValueError, match="labels without repeats"):
            make_plan(task="classification", labels=labels)


def test_a_seed_or_a_second_sampling_rate_contradicts_privacy(make_plan: MakePlan, make_dp: MakeDp) -> None:
    """What could void the guarantee is refused where the plan is made."""
    assert make_plan(dp=make_dp()).dp is not None

    with pytest.raises(ValueError, match="no seed"):
        make_plan(dp=make_dp(), seed=1)
    with pytest.raises(ValueError, match="one sampling rate"):
        make_plan(dp=make_dp(sampling_rate=0.2))


def test_a_hostile_number_is_refused_at_the_door_of_documents(make_plan: MakePlan) -> None:
    """What comes over the wire passes the same bounds."""
    tree = to_tree(make_plan())

    with pytest.raises(ConfigError, match="rounds above 0"):
        build(Plan, tree | {"rounds": 0})


def test_the_digest_covers_every_field(make_plan: MakePlan, make_dp: MakeDp) -> None:
    """Two plans that differ anywhere have different digests; equal ones the same."""
    other: dict[str, Any] = {
        "run": "run-2",
        "rounds": 4,
        "base_sha256": "c" * 64,
        "method": "fedit",
        "lora": {"r": 3},
        "frozen_sha256": "0" * 64,
        "training": TrainingConfig(steps_per_round=3),
        "sampling_rate": 0.2,
        "dp": make_dp(),
        "masked": True,
        "spot_checks": True,
        "start_sha256": "0" * 64,
        "optimizer": ServerOptimizerConfig(momentum=0.5),
        "minimum_cohort": 2,
        "max_length": 65,
        "seed": 0,
        "turns": (Turn(trains="B", learning_rate=1.0, clip_norm=1.0, update_clip=4.0),),
        "rounds_per_turn": 2,
        "rotation": 0.5,
    }

    with_it: dict[str, dict[str, Any]] = {"rotation": {"method": "fedrot"}}
    digests = {make_plan(**{field: value} | with_it.get(field, {})).sha256 for field, value in other.items()}

    assert len(digests | {make_plan().sha256, make_plan(method="fedrot").sha256}) == len(other) + 2
    assert make_plan().sha256 == make_plan().sha256


def test_no_two_rounds_share_a_rotation() -> None:
    """Plan and round each change the seed, also where their digits run together."""
    seeds = {rotation_seed(p, number=n) for p in ("x", "x1", "x11") for n in range(1, 250)}

    assert len(seeds) == 3 * 249
    assert {len(s) for s in seeds} == {32}


def test_names_are_printable_and_short() -> None:
    """Terminal controls, line breaks and text-direction marks are no names."""
    assert all(map(is_name, ("a", "Sankt Jürgen 2", "病院")))
    assert not any(map(is_name, ("", "a\n", "\x1b[31mred", "a\u202eb", "\x00", "x" * 201)))


@pytest.mark.parametrize(
    ("unit", "bound"), [("record", 4), ("patient", None), ("patient", 0), ("patient", -1), ("patient", 10**9)]
)
def test_patients_need_a_bound_and_records_have_none(make_dp: MakeDp, unit: str, bound: int | None) -> None:
    """A bound that would be ignored, or none where one is needed, is no plan."""
    assert make_dp(unit="patient", contribution_bound=1)

    with pytest.raises(ValueError, match="bound"):
        make_dp(unit=unit, contribution_bound=bound)


def test_events_are_those_of_both_releases_with_their_unit(make_dp: MakeDp) -> None:
    """Gradient and loss of one sample; discrete noise counts a little less, by the size of the adapter."""
    joint = (1.0**-2 + 4.0**-2) ** -0.5

    smooth = make_dp(unit="patient", contribution_bound=2).events(steps=7, size=10**6)
    rough = make_dp(noise="discrete").events(steps=7, size=10**6)

    assert smooth == StepEvents(sampling_rate=0.1, noise_multiplier=joint, steps=7, unit="patient")
    assert rough.unit == "record"
    widened = ((1 + 1000 / 2**20) ** 2 + (0.25 + 1 / 2**20) ** 2) ** -0.5
    assert rough.noise_multiplier == pytest.approx(widened, rel=1e-12)
    assert rough.noise_multiplier < smooth.noise_multiplier
