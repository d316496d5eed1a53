"""Settings that only a simulation has: how its data are divided, where its sites are played, how one is audited."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from partsong.common.bounds import within as _within

ANY_RANK = frozenset({"hlora", "sketch"})
"""Methods whose sites send products or sketches of them, each trained at a rank of its own."""
_MOST_WORKERS = 10_000
_MOST_STACKED = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class PartitionConfig:
    """How one dataset becomes several sites, in a simulation."""

    kind: Literal["natural", "iid", "dirichlet", "quantity", "column"] = "natural"
    """natural: as the data comes (one file or one built-in site each). dirichlet: skewed labels. quantity: skewed
    sizes."""
    alpha: float = 0.5
    """dirichlet, quantity: small is skewed."""
    column: str | None = None
    """column: one site per value of this field."""
    seed: int = 0
    """Public seed of the split."""

    def __post_init__(self) -> None:
        if self.alpha <= 0:
            raise ValueError(f"alpha above 0, not {self.alpha}")


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineConfig:
    """Where the sites of a simulation are played. No setting changes a result: seeded runs end with the same bytes.

    With `stacked` they end with the same numbers, to float tolerance.
    """

    name: Literal["local", "ray"] = "local"
    """local: this machine. ray: actors of a Ray cluster (docs/simulation.md), with partsong[ray]."""
    workers: int = 0
    """Processes that play the sites, each with a base model of its own and `model.threads` CPU threads, 1 where that is
    left out. 0: this process plays them all."""
    stacked: int = 1
    """Sites of one process that train together, each with its own adapter on the one base model: for a GPU, and
    for many small sites (docs/simulation.md). Only with privacy.mode=none."""
    address: str | None = None
    """ray: cluster to join, as `ray.init` takes it; None starts one on this machine for as long as the run takes."""
    cpus: float = 1.0
    """ray: CPUs that a worker asks the cluster for."""
    gpus: float = 0.0
    """ray: GPUs of a worker; a fraction lets several share one."""
    verify_once: bool = False
    """Verify an identical signature once in a process, not once at every site that it plays. For simulations of many
    sites; every output of the run says so."""

    def __post_init__(self) -> None:
        if not 0 <= self.workers <= _MOST_WORKERS:
            raise ValueError(f"workers between 0 and {_MOST_WORKERS}, not {self.workers}")
        if not 1 <= self.stacked <= _MOST_STACKED:
            raise ValueError(f"stacked between 1 and {_MOST_STACKED}, not {self.stacked}")
        if self.name == "ray" and self.workers == 0:
            raise ValueError("workers of at least 1 with name=ray")
        if self.name == "local" and (self.address is not None or self.gpus or self.cpus != 1.0):
            raise ValueError("address, cpus and gpus only with name=ray")
        if self.cpus < 0 or self.gpus < 0:
            raise ValueError("cpus and gpus of 0 or more")


@dataclass(frozen=True, kw_only=True, slots=True)
class AuditConfig:
    """What `partsong audit` needs beside the configuration of the run that it rehearses."""

    records: Literal["private", "public", "synthetic"] = "private"
    """What `data.path` holds. private: refused. Built-in datasets are public."""
    canaries: int = 500
    """Canaries of the watched rehearsal, each one entry of the adapter; the more, the closer the bound."""
    others: int = 50
    """At most this many records of the site beside them: the claim is for any others, and few hide a canary least."""
    step_trials: int = 3000
    """Steps of the engine with a canary each."""
    texts: int = 100
    """Random texts of the second rehearsal, half of them in; 0 leaves it out."""
    confidence: float = 0.999
    """One minus the chance that a sound engine fails, over all tests together."""

    def __post_init__(self) -> None:
        _within(20, 100_000, canaries=self.canaries)
        _within(0, 1_000_000, others=self.others)
        _within(100, 1_000_000, step_trials=self.step_trials)
        if self.texts:
            _within(20, 100_000, texts=self.texts)
        _within(0.5, 1 - 1e-9, confidence=self.confidence)
