"""Which records of a simulated site a run is about: those it trains on, or those it keeps for testing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from partsong.client.data.encode import Encoded
from partsong.client.data.personal import has_details
from partsong.common.config import SimulationConfig
from partsong.common.errors import ConfigError
from partsong.simulations.prepare import Prepared


@dataclass(frozen=True, kw_only=True, slots=True)
class Used:
    """Records of one site."""

    encoded: Encoded
    groups: tuple[str, ...] | None
    """Of each record; None where the data does not say."""


def budget_of(config: SimulationConfig) -> float:
    """Give the epsilon of the whole run."""
    votes = config.vote.epsilon if config.vote.mode == "holdout" else 0.0
    asked = {
        "train": config.privacy.epsilon + votes,
        "evaluate": config.evaluation.epsilon,
        "survey": config.survey.epsilon,
    }
    return asked[config.purpose]


def used_records(prepared: Prepared, site: str) -> Used:
    """Give the records of a site that the run's purpose reads.

    Raises:
        ConfigError: an evaluation of sites that keep no records for testing.
    """
    if prepared.config.purpose == "evaluate":
        return own_test(prepared, site)
    return Used(encoded=prepared.sites[site], groups=prepared.tables.sites[site].groups(prepared.config.data))


def personal_in(prepared: Prepared, site: str) -> Callable[[int], bool]:
    """Give what says of each record of a site, by its place, whether it holds a personal detail."""
    rows, region = prepared.tables.sites[site].rows, prepared.config.data.phone_region
    return lambda place: has_details(rows[place], region=region)


def own_test(prepared: Prepared, site: str) -> Used:
    """Give the held-out records of a site's own kind; where nobody knows whose kind they are, its share of all.

    Raises:
        ConfigError: nothing is held out, or too little for each site to have a record.
    """
    held_out, table = prepared.held_out, prepared.tables.held_out
    if held_out is None or table is None:
        raise ConfigError("data.held_out", found="nothing", expected="records for testing: none may be trained on")
    place_N = _own(prepared, site, count=len(table))
    if not len(place_N):
        raise ConfigError("data.held_out", found=f"{len(table)} records, none for {site}", expected="some for each")
    groups = table.groups(prepared.config.data)
    return Used(
        encoded=Encoded(records=tuple(held_out.records[i] for i in place_N), report=held_out.report),
        groups=None if groups is None else tuple(groups[i] for i in place_N),
    )


def _own(prepared: Prepared, site: str, *, count: int) -> NDArray[np.int64]:
    by_site = prepared.tables.held_out_by_site
    if by_site:
        return by_site.get(site, np.zeros(0, np.int64))
    names = sorted(prepared.tables.sites)
    return np.arange(names.index(site), count, len(names), dtype=np.int64)
