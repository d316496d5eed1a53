"""Prints which rivals an interpreter has, as one JSON object: python -m partsong.simulations.bench.peers.versions."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Sequence

PACKAGES = ("flwr", "ray", "pfl", "torch")


def versions(packages: Sequence[str] = PACKAGES) -> dict[str, str | None]:
    """Find the versions; None: not installed."""
    found = dict[str, str | None]()
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    return found


if __name__ == "__main__":
    print(json.dumps(versions()))
