"""The idle sites of `sim_sites` in Flower's own simulation, which runs on Ray.

    python -m partsong.simulations.bench.peers.flower_idle SITES COHORT ROUNDS

prints one JSON object. Each round asks a cohort for a vector of ones and adds up what comes back; nobody encodes,
journals or pays for a query. One CPU for each client, as Flower's documentation has it. It needs flwr[simulation].
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Sequence

import numpy as np
from flwr.app import ArrayRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

NUMBERS = 184_320


def play(*, sites: int, cohort: int, rounds: int) -> dict[str, float]:
    """Run Flower's simulation in this process and give what is printed.

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
    return {"round_ms": 1000 * statistics.median(seconds[1:])}


def main(arguments: Sequence[str]) -> None:
    """Print one run's figures."""
    sites, cohort, rounds = map(int, arguments)
    print(json.dumps(play(sites=sites, cohort=cohort, rounds=rounds)))


if __name__ == "__main__":
    main(sys.argv[1:])
