"""What a run has taken of its machine, kept beside it so that a forecast can be held against it."""

from __future__ import annotations

import json
import resource
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from partsong.common.build import build
from partsong.common.files import write_json

FILE = "resources.json"
_KIB_PER_MIB = 1024
_PER_MIB = _KIB_PER_MIB * (1024 if sys.platform == "darwin" else 1)
"""Linux counts in KiB, macOS in bytes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Resources:
    """Of one process that has carried a run from its start to its end."""

    wall_s: float
    """From the loading of the model to the last round."""
    peak_mb: float
    """Most memory of the process, and of the largest of its workers together [MiB]."""


def peak_mb() -> float:
    """Most memory that this process, and the largest of those that it started and that have ended, ever held [MiB]."""
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    workers = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return (own + workers) / _PER_MIB


def keep_resources(folder: Path, found: Resources) -> None:
    """Write them into the run's directory."""
    write_json(folder / FILE, asdict(found))


def kept_resources(folder: Path) -> Resources | None:
    """Read them; None for a run that was resumed or not finished."""
    file = folder / FILE
    return build(Resources, json.loads(file.read_text())) if file.is_file() else None
