"""Cells become lines of a table: one line for each group, over its seeds."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from partsong.simulations.studies.declare import Cell
from partsong.simulations.studies.outcome import Lost, Outcome
from partsong.simulations.studies.runner import Entry


@dataclass(frozen=True, kw_only=True, slots=True)
class Spread:
    """Mean and standard deviation over seeds."""

    mean: float
    sd: float | None
    """Of the sample; None with one seed."""

    def __str__(self) -> str:
        """Write both as a table does."""
        return f"{self.mean:.3f}" if self.sd is None else f"{self.mean:.3f} ± {self.sd:.3f}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One group of cells that differ in their seed alone."""

    cell: Cell
    """The first of them."""
    planned: int
    done: tuple[Outcome, ...]
    """With a model, by seed."""
    failed: tuple[Outcome, ...]
    why_empty: str | None
    """Of the first cell that is empty."""

    @property
    def accuracy(self) -> Spread | None:
        """On all held-out records; of local models the mean over the sites."""
        return spread([outcome.accuracy for outcome in self.done])

    @property
    def macro_recall(self) -> Spread | None:
        """Mean over the labels."""
        return spread([outcome.macro_recall for outcome in self.done])

    @property
    def own(self) -> Spread | None:
        """On a site's own kind of records, the mean over the sites."""
        return spread([statistics.fmean(outcome.own.values()) for outcome in self.done if outcome.own])

    @property
    def worst(self) -> Spread | None:
        """On its own kind of records, the site that fares worst."""
        return spread([min(outcome.own.values()) for outcome in self.done if outcome.own])

    @property
    def own_by_site(self) -> Mapping[str, Spread]:
        """Site by site, over seeds."""
        sites = sorted({site for outcome in self.done for site in outcome.own})
        found = {site: spread([outcome.own.get(site) for outcome in self.done]) for site in sites}
        return {site: value for site, value in found.items() if value is not None}

    @property
    def megabytes(self) -> float | None:
        """Sent by a site in a run [MB]."""
        sent = [outcome.bytes_per_site for outcome in self.done if outcome.bytes_per_site is not None]
        return statistics.fmean(sent) / 1e6 if sent else None

    @property
    def megabytes_by_rank(self) -> Mapping[str, float]:
        """Sent in a run by a site of each rank [MB]."""
        ranks = dict.fromkeys(rank for outcome in self.done for rank in outcome.bytes_by_rank)
        return {
            rank: statistics.fmean(o.bytes_by_rank[rank] for o in self.done if rank in o.bytes_by_rank) / 1e6
            for rank in ranks
        }

    @property
    def lost(self) -> Lost | None:
        """What averages lost, the mean over seeds; None: nobody looked at the updates."""
        found = [outcome.lost for outcome in self.done if outcome.lost is not None]
        if not found:
            return None
        return Lost(
            fedit=statistics.fmean(lost.fedit for lost in found),
            best=statistics.fmean(lost.best for lost in found),
            ours=statistics.fmean(lost.ours for lost in found),
        )


def spread(values: Sequence[float | None]) -> Spread | None:
    """Mean and standard deviation of what is there; None where nothing is."""
    there = [value for value in values if value is not None]
    if not there:
        return None
    return Spread(mean=statistics.fmean(there), sd=statistics.stdev(there) if len(there) > 1 else None)


def lines(entries: Sequence[Entry]) -> tuple[Line, ...]:
    """Gather the measured cells of a grid by group, in its order; the sweep's are left out."""
    groups: dict[str, list[Entry]] = {}
    for entry in entries:
        if entry.cell.swept_rate is None:
            groups.setdefault(entry.cell.group, []).append(entry)
    return tuple(_line(group) for group in groups.values())


def _line(group: Sequence[Entry]) -> Line:
    found = [entry.outcome for entry in group if entry.outcome is not None]
    return Line(
        cell=group[0].cell,
        planned=len(group),
        done=tuple(outcome for outcome in found if outcome.accuracy is not None),
        failed=tuple(outcome for outcome in found if outcome.accuracy is None),
        why_empty=next((entry.why_empty for entry in group if entry.outcome is None), None),
    )
