"""What a benchmark prints: named figures with their targets, and the machine they were taken on."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """One measured number."""

    name: str
    value: float | None
    """None: not measured; `reason` says why."""
    unit: str
    target: float | None = None
    """Largest value that is good enough."""
    reason: str | None = None

    @property
    def met(self) -> bool | None:
        """Whether the target is kept; None where there is no target or no value."""
        return None if self.value is None or self.target is None else self.value <= self.target


def report(bench: str, figures: Sequence[Figure], *, packages: Sequence[str]) -> dict[str, Any]:
    """Give the object that `--json` prints."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "bench": bench,
        "machine": {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count(), "gpu": gpu},
        "versions": {name: importlib.metadata.version(name) for name in packages},
        "figures": [
            {"name": f.name, "value": f.value, "unit": f.unit, "target": f.target, "met": f.met}
            | ({"reason": f.reason} if f.reason else {})
            for f in figures
        ],
    }
