"""What a run wrote against what follows from its files, value by value."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

_ROUNDING = 1e-9
"""Relative; the accountant gives the same bits on one machine, and its FFT others on another."""


def difference(found: Any, expected: Any, place: str) -> str | None:
    """Name the first value that differs; None: there is none.

    Args:
        found: as `to_tree` gives it.
        expected: of the same kind.
        place: name of the whole.
    """
    if isinstance(found, Mapping) and isinstance(expected, Mapping):
        if set(found) != set(expected):
            return place
        return _first((found[k], expected[k], f"{place}.{k}") for k in expected)
    if isinstance(found, list) and isinstance(expected, list):
        if len(found) != len(expected):
            return place
        return _first((a, b, f"{place}[{i}]") for i, (a, b) in enumerate(zip(found, expected, strict=True)))
    if isinstance(found, float) and isinstance(expected, float):
        return None if math.isclose(found, expected, rel_tol=_ROUNDING) else place
    return None if found == expected else place


def _first(triples: Iterable[tuple[Any, Any, str]]) -> str | None:
    return next((where for triple in triples if (where := difference(*triple)) is not None), None)
