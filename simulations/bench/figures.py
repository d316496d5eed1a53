"""What a benchmark prints: named figures with their targets, and the machine they were taken on."""

from __future__ import annotations

import datetime as dt
import importlib.metadata
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """One measured number."""

    name: str
    value: float | None
    """None: not measured; `reason` says why."""
    unit: str
    target: float | None = None
    """The worst value that is good enough."""
    better: Literal["lower", "higher"] = "lower"
    """On which side of the target a value is good enough."""
    reason: str | None = None
    note: str | None = None
    """What was measured, and its parts."""

    @property
    def met(self) -> bool | None:
        """Whether the target is kept; None where there is no target or no value."""
        if self.value is None or self.target is None:
            return None
        return self.value <= self.target if self.better == "lower" else self.value >= self.target


def report(bench: str, figures: Sequence[Figure], *, packages: Sequence[str]) -> dict[str, Any]:
    """Give the object that `--json` prints."""
    return {
        "bench": bench,
        "command": f"partsong bench {bench} --json",
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "machine": {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count(), "gpu": _gpu()},
        "versions": {name: _version(name) for name in packages},
        "figures": [_line(figure) for figure in figures],
    }


def _line(figure: Figure) -> dict[str, Any]:
    line = {"name": figure.name, "value": figure.value, "unit": figure.unit, "target": figure.target}
    sides = {"better": figure.better} if figure.target is not None else {}
    texts = {"reason": figure.reason, "note": figure.note}
    return line | sides | {"met": figure.met} | {key: text for key, text in texts.items() if text}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _gpu() -> str | None:
    """Name the GPU, where the benchmark used torch at all; loading it here would change what others measure."""
    torch = sys.modules.get("torch")
    return str(torch.cuda.get_device_name()) if torch is not None and torch.cuda.is_available() else None
