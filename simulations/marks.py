"""What a run does not protect, in words: stored with the run, printed with every result."""

from __future__ import annotations

from partsong.common.config import SimulationConfig
from partsong.server.marks import NOT_PRIVATE, SEEDED, SUM_ONLY, UNMASKED

ONE_PROCESS = "SIMULATION: one process plays all sites and sees all their records and keys"
VERIFIED_ONCE = "SIMULATION: an identical signature was verified once in a process, not once at every site"


def marks(config: SimulationConfig) -> tuple[str, ...]:
    """List what applies to this configuration, the most serious first."""
    found = [NOT_PRIVATE] if config.privacy.mode == "none" else []
    found += [SEEDED] if config.seed is not None else []
    found += {"off": [UNMASKED], "sum-only": [SUM_ONLY], "full": []}[config.secure_sum.mode]
    found += [VERIFIED_ONCE] if config.engine.verify_once else []
    return (*found, ONE_PROCESS)
