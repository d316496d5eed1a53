"""What a run does not protect, in words: stored with the run, printed with every result."""

from __future__ import annotations

from partsong.common.config import SimulationConfig

UNMASKED = "UNMASKED: secure_sum=off; whoever runs the coordinator could read each site's update"
NOT_PRIVATE = "NOT PRIVATE: privacy.mode=none; no clipping, no noise, no guarantee for any record"
SEEDED = "SEEDED: sampling is repeatable; for tests only"
ONE_PROCESS = "SIMULATION: one process plays all sites and sees all their records and keys"


def marks(config: SimulationConfig) -> tuple[str, ...]:
    """List what applies to this configuration, the most serious first."""
    found = [NOT_PRIVATE] if config.privacy.mode == "none" else []
    found += [SEEDED] if config.seed is not None else []
    found += [UNMASKED] if config.secure_sum.mode == "off" else []
    return (*found, ONE_PROCESS)
