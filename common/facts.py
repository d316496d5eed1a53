"""Facts that may be told to operators: in a log line, in a progress event, in a failure capsule.

Covers: only the fields of `FIELDS`, each a number, a yes or no, or one word of a closed form. No sentence fits, so
    neither a record nor the text of a library's exception nor a path can be told by mistake.
Does not cover: whether a number that has a name here was meant to be told; each caller answers for that.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from types import MappingProxyType

from partsong.common.errors import InputError

Scalar = str | int | float | bool

LONGEST_WORD = 128
_WORD = re.compile(r"[A-Za-z0-9_\[][A-Za-z0-9_.:@+\[\]-]{0,127}")
_ODD = re.compile(r"[^A-Za-z0-9_.:@+-]")

FIELDS: Mapping[str, type[str | int | float | bool]] = MappingProxyType(
    {
        # who and where
        "site": str,
        "coordinator": str,
        "consortium": str,
        "run": str,
        "plan": str,
        "purpose": str,
        "round": int,
        "rounds": int,
        "phase": str,
        "attempt": int,
        "charter": str,
        "charter_version": int,
        "adapter": str,
        # how it went
        "state": str,
        "rule": str,
        "code": str,
        "error": str,
        "place": str,
        "capsule": str,
        "check": str,
        "ok": bool,
        "kept": bool,
        "signal": str,
        # how much
        "step": int,
        "steps": int,
        "sites": int,
        "answered": int,
        "floor": int,
        "bytes_in": int,
        "bytes_out": int,
        "lost": int,
        "retries": int,
        "wait_s": float,
        "took_s": float,
        "epsilon": float,
        "loss": float,
        "update_norm": float,
        "votes": float,
        # this program
        "version": str,
        "port": int,
        "pid": int,
        "library": str,
    }
)
"""Name of a field and what it holds. `loss`, `epsilon`, `update_norm` and `votes` are those of a released sum, never a
site's own."""


def checked(values: Mapping[str, Scalar]) -> Mapping[str, Scalar]:
    """Give these facts, unchangeable and sorted by name.

    Guarantees: every name is of `FIELDS`, every value of its type and form; numbers are finite.
    Raises:
        InputError: one is not; its value is not in the text, and nothing was told.
    """
    return MappingProxyType({name: _one(name, values[name]) for name in sorted(values)})


def word(text: str) -> str:
    """Bring a name that somebody else chose into the form of a fact: odd characters become `_`, the end is cut."""
    plain = _ODD.sub("_", text[:LONGEST_WORD])
    return plain if _WORD.fullmatch(plain) else f"_{plain}"[:LONGEST_WORD]


def _one(name: str, value: Scalar) -> Scalar:
    kind = FIELDS.get(name)
    if kind is None:
        raise InputError("fact", found=f"the field {word(name)}", expected="a field of partsong.common.facts.FIELDS")
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        raise InputError(f"fact {name}", found=f"a {type(value).__name__}", expected=f"a {kind.__name__}")
    if isinstance(value, str) and not _WORD.fullmatch(value):
        raise InputError(f"fact {name}", found="a text of another form", expected=f"one word, at most {LONGEST_WORD}")
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"fact {name}", found="a number that is not finite", expected="a finite number")
    return value
