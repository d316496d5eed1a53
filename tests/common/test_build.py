"""The strict door from plain data to dataclasses."""

from dataclasses import dataclass, field
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partsong.common.build import LATER, build, canonical_json, sha256_of, to_tree
from partsong.common.config import SimulationConfig
from partsong.common.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class Knob:
    """A small schema with one field of each kind."""

    gain: float
    taps: tuple[int, ...] = ()
    mode: Literal["soft", "hard"] = "soft"
    label: str | None = None


MINIMAL = {"model": {"source": "m"}, "data": {"path": "d"}}


@pytest.mark.parametrize(
    ("data", "path"),
    [
        ({"gain": True}, "gain"),
        ({"gain": float("nan")}, "gain"),
        ({"gain": 1.0, "taps": [1, 2.5]}, "taps[1]"),
        ({"gain": 1.0, "taps": "12"}, "taps"),
        ({"gain": 1.0, "label": 3}, "label"),
        ({}, "gain"),
        ([], "configuration"),
    ],
)
def test_a_value_of_another_type_is_refused_with_its_path(data: object, path: str) -> None:
    """No value is converted silently, and the error starts with the key."""
    with pytest.raises(ConfigError) as caught:
        build(Knob, data)

    assert str(caught.value).startswith(path)


def test_an_unknown_key_is_answered_with_the_closest_known_one() -> None:
    """A typing error is met with a proposal."""
    with pytest.raises(ConfigError, match=r"privacy\.epsilom.*did you mean 'privacy\.epsilon'"):
        build(SimulationConfig, MINIMAL | {"privacy": {"epsilom": 3}})


def test_a_misspelt_choice_is_answered_with_the_closest_choice() -> None:
    """Choices behave like keys."""
    with pytest.raises(ConfigError, match="did you mean 'hard'"):
        build(Knob, {"gain": 1, "mode": "herd"})


def test_a_seed_under_differential_privacy_is_refused() -> None:
    """A seeded sampler exists only where nothing is promised."""
    with pytest.raises(ConfigError, match=r"no seed under privacy\.mode=dp"):
        build(SimulationConfig, MINIMAL | {"seed": 1})

    assert build(SimulationConfig, MINIMAL | {"seed": 1, "privacy": {"mode": "none"}}).seed == 1


def test_patients_need_a_column_that_names_them() -> None:
    """As the unit of privacy, and to opt out; without privacy nothing is promised to a unit."""
    named = {"data": {**MINIMAL["data"], "unit_field": "patient"}}
    patients = {"privacy": {"unit": "patient"}}
    opted = {"data": {**MINIMAL["data"], "opt_out": "list.txt"}}

    with pytest.raises(ConfigError, match=r"data\.unit_field with privacy\.unit=patient"):
        build(SimulationConfig, MINIMAL | patients)
    with pytest.raises(ConfigError, match="unit_field with opt_out"):
        build(SimulationConfig, MINIMAL | opted)

    assert build(SimulationConfig, MINIMAL | patients | named).privacy.contribution_bound == 4
    assert build(SimulationConfig, MINIMAL | {"privacy": {"unit": "patient", "mode": "none"}})


@given(st.floats(allow_nan=False, allow_infinity=False), st.lists(st.integers()), st.sampled_from(["soft", "hard"]))
def test_what_was_built_comes_back_as_it_was(gain: float, taps: list[int], mode: str) -> None:
    """`to_tree` is the inverse of `build`."""
    tree = {"gain": gain, "taps": taps, "mode": mode, "label": None}

    assert to_tree(build(Knob, tree)) == tree


def test_equal_trees_hash_alike_and_different_trees_do_not() -> None:
    """The hash depends on values, not on the order of keys."""
    assert sha256_of({"a": 1, "b": 2.5}) == sha256_of({"b": 2.5, "a": 1})
    assert sha256_of({"a": 1}) != sha256_of({"a": 2})
    assert canonical_json({"b": [1, None], "a": "ü"}) == '{"a":"ü","b":[1,null]}'.encode()


@dataclass(frozen=True, kw_only=True)
class Grown:
    old: int
    new: int | None = field(default=None, metadata=LATER)


def test_a_field_that_came_later_changes_nothing_where_it_says_nothing() -> None:
    """What was written before it has the same bytes; where it says something, it is written and read."""
    assert to_tree(Grown(old=1)) == {"old": 1}
    assert to_tree(Grown(old=1, new=2)) == {"old": 1, "new": 2}
    assert build(Grown, {"old": 1}) == Grown(old=1)
    assert build(Grown, to_tree(Grown(old=1, new=0))) == Grown(old=1, new=0)
