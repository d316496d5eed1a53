"""What may be told of an exception: its type, the types behind it, its rule, and where in this package it passed.

Covers: no message of any exception, no value, no path of a file, no line of another package.
Does not cover: that something failed at this line is itself a fact about the records if the line's failing depends on
    them. So it is shown at the site, and leaves it only in a released capsule.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from dataclasses import dataclass

from partsong.common.errors import PartsongError, Refused, WireError
from partsong.common.facts import word

MOST_ERRORS = 4
MOST_PLACES = 12
_PACKAGE = "partsong."


@dataclass(frozen=True, kw_only=True, slots=True)
class Blame:
    """What may be told of one exception."""

    errors: tuple[str, ...]
    """Its type, then those behind it; a foreign one with the name of its library."""
    places: tuple[str, ...]
    """`module:line` in this package, from the outermost to where the last of them was raised."""
    rule: str
    """That refused; empty where none did."""


def blame(error: BaseException) -> Blame:
    """Take from an exception what may be told; its text is not looked at."""
    chain = tuple(_chain(error))
    rules = [word(e.rule) for e in chain if isinstance(e, Refused | WireError)]
    return Blame(
        errors=tuple(_type(e) for e in chain),
        places=_places(chain[-1] if chain[-1].__traceback__ else error),
        rule=rules[0] if rules else "",
    )


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Follow an exception to what caused it, the newest first; a cycle ends where it closes."""
    seen: list[int] = []
    here: BaseException | None = error
    while here is not None and id(here) not in seen and len(seen) < MOST_ERRORS:
        seen.append(id(here))
        yield here
        here = here.__cause__ or (None if here.__suppress_context__ else here.__context__)


def _type(error: BaseException) -> str:
    kind = type(error)
    if isinstance(error, PartsongError) or kind.__module__ == "builtins":
        return word(kind.__name__)
    return word(f"{kind.__module__.partition('.')[0]}.{kind.__name__}")


def _places(error: BaseException) -> tuple[str, ...]:
    """Walk from where it was caught to where it was raised; keep the innermost frames of this package."""
    found = []
    for frame, line in traceback.walk_tb(error.__traceback__):
        module = str(frame.f_globals.get("__name__", ""))
        if module.startswith(_PACKAGE):
            found.append(word(f"{module.removeprefix(_PACKAGE)}:{line}"))
    return tuple(found[-MOST_PLACES:])
