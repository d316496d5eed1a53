"""The idle sites of `sim_sites` in Flower's own simulation, which runs on Ray.

    python -m partsong.simulations.bench.flower_simulation SITES COHORT ROUNDS

prints one JSON object. Each round asks a cohort for a vector of ones and adds up what comes back; nobody encodes,
journals or pays for a query. One CPU for each client, as Flower's documentation has it; telemetry is off.
"""

from __future__ import annotations

import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence

import numpy as np
from flwr.app import ArrayRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from partsong.simulations.bench.sim_sites import NUMBERS, Measured

LIMIT_S = 900.0
_QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


class NotMeasured(Exception):
    """Flower's simulation did not run here; the text says why."""


def measured(*, sites: int, cohort: int, rounds: int) -> Measured:
    """Run Flower's simulation in a process of its own.

    Args:
        sites: registered.
        cohort: sites of a round.
        rounds: two or more.
    Raises:
        NotMeasured: Ray is not installed, or the process failed or took too long.
    """
    if importlib.util.find_spec("ray") is None:
        raise NotMeasured("Flower's simulation needs ray, which is not installed: partsong[ray]")
    module = "partsong.simulations.bench.flower_simulation"
    command = [sys.executable, "-P", "-m", module, *map(str, (sites, cohort, rounds))]
    start = time.perf_counter()
    try:
        done = subprocess.run(  # noqa: S603 - ourselves
            command, check=True, capture_output=True, text=True, timeout=LIMIT_S, env={**os.environ, **_QUIET}
        )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as err:
        raise NotMeasured(f"Flower's simulation did not end well: {type(err).__name__}") from err
    whole_s = time.perf_counter() - start
    return Measured(whole_s=whole_s, **json.loads(done.stdout.splitlines()[-1]))


def play(*, sites: int, cohort: int, rounds: int) -> dict[str, float | None]:
    """Run Flower's simulation in this process and give what `measured` reads.

    Raises:
        AssertionError: the sum is not that of the cohort.
    """
    from flwr.simulation import run_simulation  # noqa: PLC0415 - needs Ray

    client, server, seconds = ClientApp(), ServerApp(), list[float]()

    @client.query()
    def answer(message: Message, _context: Context) -> Message:
        return Message(RecordDict({"update": ArrayRecord([np.ones(NUMBERS, np.float32)])}), reply_to=message)

    @server.main()
    def main(grid: Grid, _context: Context) -> None:
        while len(nodes := sorted(grid.get_node_ids())) < sites:
            time.sleep(0.05)
        adapter = ArrayRecord([np.zeros(NUMBERS, np.float32)])
        for number in range(rounds):
            start = time.perf_counter()
            asked = [nodes[(number * cohort + i) % sites] for i in range(cohort)]
            content = RecordDict({"adapter": adapter})
            out = [Message(content, node, "query", group_id=str(number)) for node in asked]
            total_P = np.zeros(NUMBERS)
            for reply in grid.send_and_receive(out):
                total_P += next(iter(reply.content.array_records.values())).to_numpy_ndarrays()[0]
            if not np.array_equal(total_P, np.full(NUMBERS, cohort)):
                raise AssertionError("the sum is not that of the cohort")
            seconds.append(time.perf_counter() - start)

    run_simulation(
        server_app=server,
        client_app=client,
        num_supernodes=sites,
        backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}},
    )
    if len(seconds) != rounds:
        raise AssertionError("the server app ended early")
    return {"round_ms": 1000 * statistics.median(seconds[1:]), "resident_mb": None}


def main(arguments: Sequence[str]) -> None:
    """Print one run's figures."""
    sites, cohort, rounds = map(int, arguments)
    print(json.dumps(play(sites=sites, cohort=cohort, rounds=rounds)))


if __name__ == "__main__":
    main(sys.argv[1:])
