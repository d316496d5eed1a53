"""Which runs a sweep is made of: Hydra's own syntax for several values of one key."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override
from hydra.errors import OverrideParseException

from partsong.common.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class Swept:
    """One key and what it may be."""

    key: str
    values: tuple[str, ...] = ()
    """As overrides write them; empty for an interval."""
    interval: tuple[float, float] | None = None
    whole: bool = False
    """Interval of whole numbers."""
    log: bool = False
    """Interval drawn on a logarithmic scale."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Choices:
    """What a sweep was asked for."""

    fixed: tuple[str, ...]
    """Overrides that all runs share."""
    swept: tuple[Swept, ...]


def read_choices(overrides: Sequence[str]) -> Choices:
    """Tell fixed overrides from swept ones: `k=a,b`, `k=choice(a,b)`, `k=range(1,4)`, `k=tag(log, interval(1e-4, 1))`.

    Raises:
        ConfigError: not Hydra's syntax, or nothing is swept.
    """
    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
    except OverrideParseException as err:
        raise ConfigError("argument", found="overrides that do not parse", expected=str(err).splitlines()[0]) from err
    swept = tuple(_swept(one) for one in parsed if one.is_sweep_override())
    if not swept:
        raise ConfigError("argument", found="one value for every key", expected="a key with several, such as seed=1,2")
    fixed = tuple(text for text, one in zip(overrides, parsed, strict=True) if not one.is_sweep_override())
    return Choices(fixed=fixed, swept=swept)


def grid(choices: Choices) -> list[dict[str, str]]:
    """Give every combination of the swept values, in the order in which Hydra's multirun takes them.

    Raises:
        ConfigError: an interval, which has no end.
    """
    if endless := [one.key for one in choices.swept if one.interval is not None]:
        raise ConfigError(
            endless[0], found="an interval", expected="several values", remedy="draw from it with --trials N"
        )
    keys = [one.key for one in choices.swept]
    return [
        dict(zip(keys, values, strict=True)) for values in itertools.product(*(one.values for one in choices.swept))
    ]


def _swept(override: Override) -> Swept:
    value: Any = override.value()
    key = override.get_key_element()
    if isinstance(value, IntervalSweep):
        start, end = value.start or 0.0, value.end or 0.0
        whole = isinstance(start, int) and isinstance(end, int)
        return Swept(key=key, interval=(float(start), float(end)), whole=whole, log="log" in value.tags)
    return Swept(key=key, values=tuple(override.sweep_string_iterator()))
