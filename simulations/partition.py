"""One dataset becomes several sites. Repeatable from a public seed; the manifest says who got what."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from partsong.common.errors import ConfigError, DataError
from partsong.common.simulated import PartitionConfig
from partsong.simulations.site_ids import site_ids

Indices = NDArray[np.int64]

_TRIES = 1000
_SMALLEST_SITE = 10


def partition(
    config: PartitionConfig, *, size: int, sites: int | None, labels: Sequence[str] | None, column: Sequence[str] | None
) -> dict[str, Indices]:
    """Assign every record to exactly one site.

    Args:
        config: which kind, and its constants.
        size: number of records.
        sites: how many sites; for `column` it must be None or agree with the data.
        labels: each record's label, for `dirichlet`.
        column: each record's value of `config.column`, for `column`.
    Returns:
        for each site's name the sorted indices of its records.
    Raises:
        ConfigError: what the kind needs is missing.
        DataError: the records cannot be divided so that every site has at least ten.
    """
    if config.kind == "column":
        return _by_column(config, column, sites)
    if config.kind == "natural":
        raise ConfigError(
            "partition.kind",
            found="natural for one dataset",
            expected="iid, dirichlet, quantity or column",
            remedy="or give data.path a folder with one dataset per site",
        )
    if sites is None:
        raise ConfigError("sites", found="nothing", expected=f"a number of sites for partition.kind={config.kind}")
    if size < sites * _SMALLEST_SITE:
        raise DataError(
            "data", found=f"{size} records", expected=f"at least {_SMALLEST_SITE} for each of {sites} sites"
        )
    rng = np.random.default_rng(config.seed)
    if config.kind == "iid":
        parts = np.array_split(rng.permutation(size), sites)
    elif config.kind == "quantity":
        parts = _by_quantity(size, sites, config.alpha, rng)
    elif labels is None:
        raise ConfigError("partition.kind", found="dirichlet", expected="records with a label")
    else:
        parts = _dirichlet(labels, sites, config.alpha, rng)
    return {f"site-{i + 1:0{len(str(sites))}d}": np.sort(part) for i, part in enumerate(parts)}


def manifest(parts: dict[str, Indices], labels: Sequence[str] | None) -> dict[str, Any]:
    """Describe a partition: sizes, and label counts where there are labels."""
    return {
        site: {"records": len(chosen), **({"labels": dict(Counter(labels[i] for i in chosen))} if labels else {})}
        for site, chosen in parts.items()
    }


def _by_column(config: PartitionConfig, column: Sequence[str] | None, sites: int | None) -> dict[str, Indices]:
    if config.column is None or column is None:
        raise ConfigError("partition.column", found="nothing", expected="the name of a field of the data")
    values = np.array(column)
    ids = site_ids(sorted(set(column)), place=f"partition.column {config.column}")
    parts = {ids[v]: np.flatnonzero(values == v) for v in ids}
    if sites is not None and sites != len(parts):
        raise ConfigError(
            "sites", found=str(sites), expected=f"{len(parts)}, the values of {config.column}, or nothing"
        )
    return parts


def _by_quantity(size: int, sites: int, alpha: float, rng: np.random.Generator) -> list[Indices]:
    """Give every site ten records, and divide the others by a draw from Dirichlet(alpha).

    Source: Li et al. 2022, arXiv 2102.02079, "quantity skew"; the ten records that all get are ours.
    """
    left = size - sites * _SMALLEST_SITE
    cuts = (np.cumsum(rng.dirichlet(np.full(sites, alpha)))[:-1] * left).astype(int)
    ends = cuts + _SMALLEST_SITE * np.arange(1, sites)
    return np.split(rng.permutation(size), ends)


def _dirichlet(labels: Sequence[str], sites: int, alpha: float, rng: np.random.Generator) -> list[Indices]:
    """Divide each label's records by a draw from Dirichlet(alpha), again until no site is nearly empty.

    Source: Hsu et al. 2019, arXiv 1909.06335, section 3.
    """
    values = np.array(labels)
    classes = [np.flatnonzero(values == label) for label in sorted(set(labels))]
    for _ in range(_TRIES):
        parts: list[list[int]] = [[] for _ in range(sites)]
        for members in classes:
            cuts = (np.cumsum(rng.dirichlet(np.full(sites, alpha)))[:-1] * len(members)).astype(int)
            for part, chosen in zip(parts, np.split(rng.permutation(members), cuts), strict=True):
                part.extend(chosen.tolist())
        if min(map(len, parts)) >= _SMALLEST_SITE:
            return [np.array(part, dtype=np.int64) for part in parts]
    raise DataError(
        "data",
        found=f"no division in {_TRIES} draws with {_SMALLEST_SITE} records at every site",
        expected="enough records",
        remedy="raise partition.alpha or lower sites",
    )
