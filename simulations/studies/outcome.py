"""What a cell ends with, and how it is kept: one file for each finished cell.

Covers: a file is whole or absent (a killed study loses the cell it was playing and no other), and it is found again
only by the very configuration and data that it is of.
Does not cover: a file that was edited by hand.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from partsong.common.build import build, to_tree
from partsong.common.errors import ConfigError, DataError
from partsong.common.files import write_json
from partsong.simulations.studies.corpus import Division


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """The global adapter during a run."""

    round: int
    accuracy: float
    bytes_per_site: float
    """Sent by a site so far, on average."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Lost:
    """What averages lost of the mean product of the sites' updates, relative: the mean over layers and rounds."""

    fedit: float
    """Two averages, one of A and one of B."""
    best: float
    """The best matrix of the adapter's rank."""
    ours: float
    """The run itself."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scored:
    """A model on the held-out records."""

    accuracy: float
    macro_recall: float
    """Mean over the labels of the share that was found."""
    own: Mapping[str, float]
    """Accuracy on each site's own kind of records."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """A finished cell."""

    accuracy: float | None
    """On all held-out records; of local models, the mean over the sites. None: the run failed."""
    macro_recall: float | None
    own: Mapping[str, float] = field(default_factory=dict)
    """On each site's own kind: of the one model, or of the site's own."""
    pooled_by_site: Mapping[str, float] = field(default_factory=dict)
    """Local models: each one's accuracy on all held-out records."""
    rate: float | None = None
    visits: int = 0
    """Records that were looked at, expected."""
    bytes_per_site: float | None = None
    bytes_by_rank: Mapping[str, float] = field(default_factory=dict)
    """Sent by a site of each rank, on average; by the rank's digits."""
    lost: Lost | None = None
    """None: nobody looked at the updates."""
    epsilon: float | None = None
    """Spent at each site."""
    curve: tuple[Point, ...] = ()
    dropped: tuple[int, ...] = ()
    """Rounds that a vote has dropped."""
    seconds: float = 0.0
    failed: str | None = None
    """Why there is no model."""


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Store(Generic[T]):
    """A folder of finished cells."""

    folder: Path
    kind: type[T]
    """What a cell ends with: a dataclass."""

    def read(self, key: str, digest: str) -> T | None:
        """Find a finished cell; None: it was not played, or under another configuration or with other data.

        Raises:
            DataError: the file is not what a study writes.
        """
        file = self._file(key, digest)
        if not file.is_file():
            return None
        try:
            kept: Any = json.loads(file.read_text("utf-8"))
            found, outcome = kept["sha256"], build(self.kind, kept["outcome"])
        except (ValueError, KeyError, TypeError, ConfigError) as err:
            raise DataError(
                str(file), found=f"no result of a study ({err})", expected="what was written", remedy="delete it"
            ) from err
        if found != digest:
            raise DataError(str(file), found="the result of another configuration", expected=digest, remedy="delete it")
        return outcome

    def write(self, key: str, digest: str, outcome: T, *, machine: Mapping[str, Any]) -> None:
        """Keep a finished cell, whole or not at all."""
        kept = {"cell": key, "sha256": digest, "machine": dict(machine), "outcome": to_tree(outcome)}
        write_json(self._file(key, digest), kept)

    def _file(self, key: str, digest: str) -> Path:
        return self.folder / f"{key}.{digest[:12]}.json"


def scored(hit_N: NDArray[np.bool_], division: Division) -> Scored:
    """Sum up which held-out records a model has right.

    Args:
        hit_N: in the order of `division.held_out`.
        division: whose records they are.
    """
    label_N = np.array([example.label for example in division.held_out])
    recalls = [float(hit_N[label_N == label].mean()) for label in sorted(set(label_N.tolist()))]
    return Scored(
        accuracy=float(hit_N.mean()),
        macro_recall=float(np.mean(recalls)),
        own={site: float(weight_N @ hit_N) for site, weight_N in division.own_weight_N.items()},
    )
