"""Bounds of settings, said in words that name the setting."""

from __future__ import annotations


def positive(**values: float | None) -> None:
    """Refuse numbers that are not above 0; None is no number.

    Raises:
        ValueError: names the first of them.
    """
    for name, value in values.items():
        if value is not None and value <= 0:
            raise ValueError(f"{name} above 0, not {value}")


def within(low: float, high: float, **values: float | None) -> None:
    """Refuse numbers outside `low` to `high`; None is no number.

    Raises:
        ValueError: names the first of them.
    """
    for name, value in values.items():
        if value is not None and not low <= value <= high:
            raise ValueError(f"{name} between {low} and {high}, not {value}")
