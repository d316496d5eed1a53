"""What a study's lines say about each other, good and bad, in sentences that follow from the numbers alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from partsong.simulations.studies.declare import Arm
from partsong.simulations.studies.runner import Entry
from partsong.simulations.studies.summary import Line
from partsong.simulations.studies.tables import ARMS, name_of

_SHARE_OF_GAIN = 0.85
"""Of what pooling gains over staying alone, the share that the best federated line is to keep."""


def gains(lines: Sequence[Line]) -> list[str]:
    """Say how much of pooling's gain each federated line keeps, against trained and against frozen references."""
    found = []
    pairs: tuple[tuple[Arm, Arm], ...] = (("pooled", "local"), ("frozen_pooled", "frozen_local"))
    for pooled, alone in pairs:
        high, low = _accuracy(lines, pooled), _accuracy(lines, alone)
        if high is None or low is None:
            found.append(f"Not known: what pooling gains, by {ARMS[pooled]} and {ARMS[alone]}, not all of which ran.")
            continue
        found.append(
            f"{ARMS[pooled]} {high:.3f}, {ARMS[alone]} {low:.3f}: pooling gains {high - low:+.3f}, and "
            f"{_SHARE_OF_GAIN:g} of it would be {low + _SHARE_OF_GAIN * (high - low):.3f}."
        )
        found += [
            f"- {name_of(line.cell)}: {line.accuracy.mean:.3f}, "
            f"{(line.accuracy.mean - low) / (high - low):.2f} of the gain."
            for line in lines
            if line.cell.arm == "federated" and line.accuracy is not None and high > low
        ]
    return found


def shortfalls(lines: Sequence[Line]) -> list[str]:
    """List what did not work: runs that failed, and federated lines that a site would have done better without."""
    found = [
        f"{name_of(line.cell)} ({line.cell.split.name}): {len(line.failed)} of {line.planned} runs failed; "
        f"the first with: {line.failed[0].failed}"
        for line in lines
        if line.failed
    ]
    alone = next((line for line in lines if line.cell.arm == "local" and line.done), None)
    if alone is None:
        return found
    for line in lines:
        if line.cell.arm != "federated" or not line.done:
            continue
        lost = [site for site, own in line.own_by_site.items() if own.mean < alone.own_by_site[site].mean]
        if lost:
            count = f"{len(lost)} of {len(line.own_by_site)} sites"
            found.append(
                f"{name_of(line.cell)} ({line.cell.split.name}): on its own kind of records, {count} did better alone "
                f"({', '.join(lost)})."
            )
    return found


def empty(entries: Sequence[Entry]) -> list[str]:
    """Count the cells that are empty, by reason."""
    reasons = Counter(entry.why_empty for entry in entries if entry.why_empty is not None)
    return [f"{count} cells: {reason}." for reason, count in reasons.most_common()]


def _accuracy(lines: Sequence[Line], arm: Arm) -> float | None:
    return next((line.accuracy.mean for line in lines if line.cell.arm == arm and line.accuracy is not None), None)
