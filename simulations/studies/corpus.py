"""A public dataset as a study sees it: labelled texts in three parts that share no document.

train: what sites hold. validation: what learning rates are chosen on. test: what tables are of.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from partsong.client.data.table import Table, table_from_rows
from partsong.common.config import DataConfig
from partsong.common.simulated import PartitionConfig
from partsong.simulations.builtin.records import fraction
from partsong.simulations.partition import manifest, partition
from partsong.simulations.prepare import SiteTables

Part = Literal["train", "validation", "test"]

POOLED = "pooled"
"""Name of the one site that holds everything."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """One labelled text."""

    text: str
    label: str
    site: str | None = None
    """Who publishes it; None where the data name nobody."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Corpus:
    """Labelled texts, parted."""

    name: str
    labels: tuple[str, ...]
    train: tuple[Example, ...]
    validation: tuple[Example, ...]
    test: tuple[Example, ...]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Division:
    """A corpus dealt to sites, and the records that a model of it is scored on."""

    tables: SiteTables
    held_out: tuple[Example, ...]
    own_weight_N: Mapping[str, NDArray[np.float64]]
    """For each site, what each held-out record counts in a test of the site's own kind; adds up to 1."""


def part_of(document: str, *, salt: str, validation: float, test: float) -> Part:
    """Deal a document to one of the parts by a public hash.

    Args:
        document: its public name, or its text.
        salt: public name of the split.
        validation: share of the documents, 0 to 1.
        test: likewise.
    """
    drawn = fraction(salt, document)
    return "test" if drawn < test else "validation" if drawn < test + validation else "train"


def divide(
    corpus: Corpus,
    how: PartitionConfig,
    *,
    sites: int | None,
    part: Literal["validation", "test"],
    limit: int | None = None,
) -> Division:
    """Deal the training part to sites.

    Args:
        corpus: to be dealt.
        how: `natural`: each text to its publisher; otherwise as `partition` does.
        sites: how many; None for natural.
        part: what models are scored on.
        limit: at most this many records of it, an even and repeatable choice.
    """
    rows = corpus.train
    if how.kind == "natural":
        parts = _by_publisher(rows)
    else:
        parts = partition(how, size=len(rows), sites=sites, labels=[row.label for row in rows], column=None)
    held_out = _limited(getattr(corpus, part), limit)
    weights = {
        site: _own_by_publisher(held_out, site)
        if how.kind == "natural"
        else _own_by_label(held_out, [rows[i].label for i in chosen])
        for site, chosen in parts.items()
    }
    tables = {site: _table([rows[i] for i in chosen], corpus, site) for site, chosen in parts.items()}
    return Division(
        tables=SiteTables(
            sites=tables,
            held_out=_table(held_out, corpus, part),
            held_out_by_site={},
            labels=corpus.labels,
            manifest=manifest(parts, [row.label for row in rows]),
        ),
        held_out=held_out,
        own_weight_N=weights,
    )


def pooled(division: Division, corpus: Corpus) -> SiteTables:
    """Put all training records at one site."""
    table = _table(corpus.train, corpus, POOLED)
    return SiteTables(
        sites={POOLED: table},
        held_out=division.tables.held_out,
        held_out_by_site={},
        labels=corpus.labels,
        manifest={POOLED: {"records": len(table)}},
    )


def _table(rows: Sequence[Example], corpus: Corpus, name: str) -> Table:
    config = DataConfig(labels=corpus.labels)
    return table_from_rows(
        [{"text": row.text, "label": row.label} for row in rows], config, source=f"{corpus.name}:{name}"
    )


def _by_publisher(rows: Sequence[Example]) -> dict[str, NDArray[np.int64]]:
    names = np.array([row.site for row in rows])
    return {str(name): np.flatnonzero(names == name) for name in sorted(set(names.tolist()))}


def _limited(rows: tuple[Example, ...], limit: int | None) -> tuple[Example, ...]:
    if limit is None or limit >= len(rows):
        return rows
    order = sorted(range(len(rows)), key=lambda i: fraction("partsong-study-limit", str(i), rows[i].text))
    return tuple(rows[i] for i in sorted(order[:limit]))


def _own_by_publisher(held_out: Sequence[Example], site: str) -> NDArray[np.float64]:
    mine_N = np.array([row.site == site for row in held_out], dtype=np.float64)
    return _normal(mine_N)


def _own_by_label(held_out: Sequence[Example], labels: Sequence[str]) -> NDArray[np.float64]:
    """Weigh the common test by the site's own mix of labels; a label without a test record is left out."""
    there, mine = Counter(row.label for row in held_out), Counter(labels)
    weight_N = np.array([mine[row.label] / there[row.label] for row in held_out], dtype=np.float64)
    return _normal(weight_N)


def _normal(weight_N: NDArray[np.float64]) -> NDArray[np.float64]:
    """Make weights add up to 1; a site of whose kind no record is held out has none."""
    total = float(weight_N.sum())
    return np.asarray(weight_N / total) if total else weight_N
