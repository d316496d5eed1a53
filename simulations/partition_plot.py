"""A picture of who got which records, beside the manifest that says it exactly."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from partsong.simulations.studies.plots import Bar, bar_plot

MOST_SITES, MOST_LABELS = 60, 8
"""More bars or colours than these nobody can tell apart."""


def partition_plot(manifest: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Draw the records of each site, coloured by label where the data has labels.

    Args:
        manifest: for each site `records`, and `labels` with their counts where there are any.
    Returns:
        an SVG document; None where the manifest counts no records.
    """
    sizes = {site: int(entry.get("records", 0)) for site, entry in sorted(manifest.items())}
    shown = dict(list(sizes.items())[:MOST_SITES])
    if not any(shown.values()):
        return None
    counts = {site: Counter[str](manifest[site].get("labels") or {}) for site in shown}
    labels = [label for label, _ in sum(counts.values(), Counter[str]()).most_common(MOST_LABELS)]
    bars = [
        Bar(name=site, shares=(*(float(counts[site][label]) for label in labels), _rest(size, counts[site], labels)))
        for site, size in shown.items()
    ]
    rest = ["all others"] if labels and any(bar.shares[-1] for bar in bars) else []
    some = "" if len(shown) == len(sizes) else f", the first {len(shown)} of {len(sizes)} sites"
    return bar_plot(f"records of each site{some}", [*labels, *rest], bars)


def _rest(size: int, counts: Counter[str], labels: list[str]) -> float:
    """Records of a site whose label has no colour of its own, or that have none."""
    return float(size - sum(counts[label] for label in labels))
