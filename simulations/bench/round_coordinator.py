"""The coordinator of a measured run, as a process of its own so that its memory is nobody else's.

`python -m partsong.simulations.bench.round_coordinator FOLDER NUMBERS ROUNDS` plays a canary on a consortium
whose sites are at work, with the transport, the secure sum, the journals and the checkpoints of a deployed run.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from partsong.common import events
from partsong.common.errors import RoundAborted
from partsong.common.memory import return_freed_memory
from partsong.server.adapter_file import keep_start, read_adapter
from partsong.server.daemon.canary import make_canary
from partsong.server.daemon.gathering import gather, wanted_by
from partsong.server.daemon.up import listen_as
from partsong.server.link.transport import EmbeddedSuperlink
from partsong.server.membership.home import CoordinatorHome
from partsong.server.membership.opened import OpenedCoordinator, open_coordinator
from partsong.server.run import Run, Terms
from partsong.server.run_files import RunFiles
from partsong.server.secure_sum.masked_sums import Trust
from partsong.simulations.bench.process_memory import peak_bytes

_GATHER_S, _PHASE_S = 60.0, 300.0


def play(home: CoordinatorHome, opened: OpenedCoordinator, *, numbers: int, rounds: int) -> dict[str, Any]:
    """Carry out a canary of all sites.

    Args:
        home: the coordinator's directory.
        opened: what it holds.
        numbers: in an update.
        rounds: to be timed; one more goes before them, which has no result to send along, and one behind them.
    Returns:
        `seconds`: of each timed round, from its opening to the next one's, and so with journals and checkpoint;
        `phases`: of each timed round its phases [s], the rest being what follows the last; `peak_bytes` of this
        process; `sites` in the smallest sum.
    Raises:
        RoundAborted: a round did not hold all sites.
    """
    if opened.charter is None:
        raise AssertionError("the ceremony ends with a charter")
    charter, names = opened.charter.charter, tuple(opened.sites)
    plan = make_canary(
        run=f"bench-{numbers}-{time.time_ns()}",
        size=numbers,
        rounds=rounds + 2,
        max_sites=len(names),
        minimum_cohort=charter.minimum_cohort,
        seed=1,
    )
    files = RunFiles(home.runs / plan.run)
    keep_start(files.start, plan.layout, trained_P=np.zeros(numbers, np.float32), frozen_F=np.zeros(0, np.float32))
    terms = Terms(
        plan=plan,
        adapter=lambda: read_adapter(files.start, plan.layout),
        trust=Trust(charter=charter, signer=opened.signer),
        report_timeout_s=_PHASE_S,
        check_window=2,
        expected=names,
    )
    marks: list[tuple[str, float]] = []
    run = Run(terms, files, listen=lambda event: _mark(event, marks))
    run.begin()
    with EmbeddedSuperlink(listen_as(opened), opened.sites) as link:
        wanted = wanted_by(plan, charter, expected=names)
        deadline_s = time.monotonic() + _GATHER_S
        gather(wanted, link.connected, deadline_s=deadline_s, settle_s=0.0, pause=_pause)
        keys = {site.id: bytes.fromhex(site.key) for site in charter.sites}
        result = run.play(link.exchange(run=plan.run, signer=opened.signer, identity_keys=keys))
    fewest = min(len(entry["sites"]) for entry in result.history)
    if fewest < len(names):
        raise RoundAborted(f"run {plan.run}: {fewest} sites in a sum, {len(names)} expected; nothing was measured")
    return {**_times(marks), "peak_bytes": peak_bytes("self"), "sites": fewest}


def _pause(seconds: float) -> bool:
    time.sleep(min(seconds, 0.05))
    return False


def _mark(event: events.Event, marks: list[tuple[str, float]]) -> None:
    """Note when rounds and phases begin, and when the last round is over."""
    if isinstance(event, events.RoundOpened):
        marks.append(("", time.monotonic()))
    elif isinstance(event, events.PhaseBegan):
        marks.append((event.phase, time.monotonic()))
    elif isinstance(event, events.RoundSummed):
        marks.append(("after", time.monotonic()))


def _times(marks: list[tuple[str, float]]) -> dict[str, Any]:
    """Cut the marks into rounds; the first and the last are not timed."""
    opened = [place for place, (what, _) in enumerate(marks) if not what]
    seconds, phases = [], []
    for start, end in itertools.pairwise(opened[1:]):
        seconds.append(marks[end][1] - marks[start][1])
        phases.append({marks[i][0]: round(marks[i + 1][1] - marks[i][1], 4) for i in range(start + 1, end)})
    return {"seconds": seconds, "phases": phases}


def main(arguments: list[str]) -> None:
    """Print what `play` gives as JSON."""
    return_freed_memory()
    folder, numbers, rounds = arguments
    home = CoordinatorHome(Path(folder) / "coordinator")
    opened = open_coordinator(home, (Path(folder) / "passphrase").read_bytes())
    print(json.dumps(play(home, opened, numbers=int(numbers), rounds=int(rounds))))


if __name__ == "__main__":
    main(sys.argv[1:])
