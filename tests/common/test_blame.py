"""Of an exception only its types, its rule and its places in this package are told."""

import json
from dataclasses import dataclass

import numpy as np
import pytest

from partsong.common.blame import MOST_ERRORS, MOST_PLACES, blame
from partsong.common.build import build
from partsong.common.capsule import Environment
from partsong.common.errors import ConfigError, DataError, PartsongError, Refused
from partsong.common.facts import checked

SECRET = "fracture of the left wrist"


def _caught(raise_it: object) -> BaseException:
    with pytest.raises(BaseException) as caught:  # noqa: PT011
        raise_it()  # type: ignore[operator]
    return caught.value


def test_our_error_is_told_by_name_with_the_lines_it_passed() -> None:
    """The places are modules of this package with their lines, the innermost last; the test itself is none."""
    error = _caught(lambda: build(Environment, {"python": SECRET}))

    found = blame(error)

    assert found.errors == ("ConfigError",)
    assert found.places
    assert all(place.startswith("common.build:") for place in found.places)


def test_a_foreign_error_is_told_with_its_library() -> None:
    """numpy's own error names numpy; a builtin one stands by itself; no text of either is told."""

    def fail() -> None:
        try:
            np.linalg.inv(np.zeros((2, 2)))
        except np.linalg.LinAlgError as err:
            raise ValueError(SECRET) from err

    found = blame(_caught(fail))

    assert found.errors == ("ValueError", "numpy.LinAlgError")
    assert SECRET not in repr(found)


def test_what_was_caught_on_the_way_is_told_unless_it_was_put_aside() -> None:
    """`raise ... from None` hides what came before, as in a traceback."""

    def fail(*, aside: bool) -> None:
        try:
            json.loads("{")
        except ValueError:
            if aside:
                raise DataError("x", found="y", expected="z") from None
            raise DataError("x", found="y", expected="z")  # noqa: B904

    assert blame(_caught(lambda: fail(aside=False))).errors == ("DataError", "json.JSONDecodeError")
    assert blame(_caught(lambda: fail(aside=True))).errors == ("DataError",)


def test_the_rule_of_a_refusal_is_told_from_behind_another_error() -> None:
    """A refusal that was wrapped still names its rule, as a word."""

    def fail() -> None:
        raise PartsongError(SECRET) from Refused("a rule/with odd marks", reason=SECRET, remedy=SECRET)

    found = blame(_caught(fail))

    assert (found.errors, found.rule) == (("PartsongError", "Refused"), "a_rule_with_odd_marks")


def test_a_type_whose_name_was_made_from_data_is_a_word() -> None:
    """Even a class named after a record becomes one word, cut to its length."""
    kind = type(SECRET + "\n" * 300, (Exception,), {})

    found = blame(kind())

    assert checked({"error": found.errors[0]})


def test_cycles_and_long_chains_end() -> None:
    """Exceptions that point at each other are told once each, and no more than a few."""
    one, two = ValueError(), KeyError()
    one.__cause__, two.__cause__ = two, one
    chain = ValueError()
    for _ in range(20):
        outer = ValueError()
        outer.__cause__, chain = chain, outer

    assert blame(one).errors == ("ValueError", "KeyError")
    assert len(blame(chain).errors) == MOST_ERRORS


@dataclass(frozen=True, kw_only=True, slots=True)
class _Deep:
    """Nests in itself."""

    deeper: "_Deep | None" = None


def test_a_deep_error_keeps_the_innermost_places() -> None:
    """Recursion does not make a capsule long."""
    tree: object = 1
    for _ in range(100):
        tree = {"deeper": tree}

    found = blame(_caught(lambda: build(_Deep, tree)))

    assert len(found.places) == MOST_PLACES


def test_an_error_that_was_never_raised_has_no_place() -> None:
    """There is nothing to walk."""

    assert blame(ConfigError("a", found="b", expected="c")).places == ()
