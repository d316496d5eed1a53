"""What the simulator itself costs: sites that do nothing but return a vector, few and many of them.

    python -m partsong.simulations.bench.sim_sites SITES COHORT ROUNDS

prints one JSON object about one run in a process of its own. Disks lie in memory where the system has a place for that:
what is measured is this package, not the disk.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from partsong.client.encoders.encoder import LocalRound, LocalUpdate
from partsong.client.rules.consent import Facts
from partsong.common import events
from partsong.common.canary import NO_MODEL
from partsong.common.plan import Plan
from partsong.server.daemon.canary import make_canary
from partsong.simulations.bench.peers.process import told
from partsong.simulations.dry_run import DryRun, DryTerms

NUMBERS = 184_320
AWAKE = 128
"""Sites whose ledgers stay open, where the cohort is smaller."""
_PROCESS, MEMORY = Path("/proc/self/status"), Path("/dev/shm")  # noqa: S108 - the kernel's, not a guess at /tmp


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """One run of sites that do nothing."""

    whole_s: float
    """From the first import of this module's process to the result."""
    cpu_s: float
    """Of all of it."""
    round_ms: float
    """Median of the rounds but the first."""
    resident_mb: float | None
    """Of the process at the end; None where the system does not say."""


class Idle:
    """An encoder that returns the same vector every time."""

    resumes = False

    def facts(self, plan: Plan) -> Facts:
        """Say that there is no model and not one record."""
        return Facts(records=0, base_sha256=NO_MODEL, layout=plan.layout)

    def encode(self, asked: LocalRound) -> LocalUpdate:
        """Return a vector of ones."""
        return LocalUpdate(
            update_P=np.ones(asked.plan.layout.size(trained=True), np.float32),
            loss=0.0,
            visits=0,
            tokens=0,
            nonfinite=0,
            events=(),
        )


def measured(*, sites: int, cohort: int, rounds: int) -> Measured:
    """Run idle sites in a process of their own.

    Args:
        sites: registered.
        cohort: sites of a round.
        rounds: two or more.
    Raises:
        NotMeasured: the process failed.
    """
    found = told("sim_sites", arguments=(sites, cohort, rounds))
    return Measured(whole_s=found.whole_s, cpu_s=found.cpu_s, **found.said)


def play(*, sites: int, cohort: int, rounds: int, numbers: int = NUMBERS) -> dict[str, float | None]:
    """Run idle sites in this process and give what `measured` reads.

    Raises:
        AssertionError: the sum is not that of the sites.
    """
    names = tuple(f"site-{i:06}" for i in range(sites))
    plan = make_canary(run="idle", size=numbers, rounds=rounds, max_sites=cohort, minimum_cohort=3, seed=0)
    plan, ends = replace(plan, masked=False, spot_checks=False), list[float]()

    def listen(event: events.Event) -> None:
        if isinstance(event, (events.RoundOpened, events.RoundSummed)):
            ends.append(time.perf_counter())

    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder:
        terms = DryTerms(
            plan=plan,
            names=names,
            consortium=None,
            sample=cohort,
            awake=max(cohort, AWAKE),
            encoder=lambda _name: Idle(),
        )
        run = DryRun(terms, Path(folder), listen=listen)
        result = run.run()
        run.close()
    if not np.allclose(result.trained_P, rounds, atol=1e-3) or any(len(e["sites"]) != cohort for e in result.history):
        raise AssertionError("the sum is not that of the sites")
    steady = [end - begin for begin, end in zip(ends[2::2], ends[3::2], strict=True)]
    return {"round_ms": 1000 * statistics.median(steady), "resident_mb": resident_mb()}


def resident_mb() -> float | None:
    """Memory of this process [MB], or None."""
    if not _PROCESS.exists():
        return None
    (line,) = (line for line in _PROCESS.read_text().splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) / 1024


def main(arguments: Sequence[str]) -> None:
    """Print one run's figures."""
    sites, cohort, rounds = map(int, arguments)
    print(json.dumps(play(sites=sites, cohort=cohort, rounds=rounds)))


if __name__ == "__main__":
    main(sys.argv[1:])
