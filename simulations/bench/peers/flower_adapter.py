"""The adapter's task in Flower's own simulation, which runs on Ray: the same steps on the same samples.

    python -m partsong.simulations.bench.peers.flower_adapter WEIGHTS

reads the configuration from stdin, writes the last weights to the file WEIGHTS and prints one JSON object. A client
trains and returns its update as it is. One CPU for each client; an actor loads model and records once. It needs
flwr[simulation] beside what partsong needs.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Sequence

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp

from partsong.common.adapters.adapter import FloatVec
from partsong.simulations.bench.peers.flower_client import client_of, loaded
from partsong.simulations.bench.peers.process import asked
from partsong.simulations.federation import fresh_adapter


def play(overrides: tuple[str, ...]) -> tuple[FloatVec, dict[str, float]]:
    """Train, and give the last weights and what is printed."""
    from flwr.simulation import run_simulation  # noqa: PLC0415 - needs Ray

    task, plan, _ = loaded(overrides)
    names, state = tuple(sorted(task.sites)), [fresh_adapter(task)[0].astype(np.float64)]
    seconds, server = list[float](), ServerApp()

    @server.main()
    def main(grid: Grid, _context: Context) -> None:
        while len(nodes := sorted(grid.get_node_ids())) < len(names):
            time.sleep(0.05)
        for number in range(1, plan.rounds + 1):
            start = time.perf_counter()
            adapter = ArrayRecord([state[0].astype(np.float32)])
            out = [
                Message(
                    RecordDict({"adapter": adapter, "query": ConfigRecord({"site": name, "round": number})}),
                    node,
                    "train",
                    group_id=str(number),
                )
                for node, name in zip(nodes, names, strict=True)
            ]
            replies = list(grid.send_and_receive(out))
            if failed := [reply.error.reason for reply in replies if reply.has_error()]:
                raise AssertionError(f"{len(failed)} clients failed: {failed[0]}")
            updates = [reply.content.array_records["update"].to_numpy_ndarrays()[0] for reply in replies]
            state[0] = state[0] + np.sum(updates, axis=0, dtype=np.float64) / len(names)
            seconds.append(time.perf_counter() - start)

    run_simulation(
        server_app=server,
        client_app=client_of(overrides),
        num_supernodes=len(names),
        backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}},
    )
    if len(seconds) != plan.rounds:
        raise AssertionError("the server app ended early")
    return state[0].astype(np.float32), {"round_ms": 1000 * statistics.median(seconds[1:])}


def main(arguments: Sequence[str]) -> None:
    """Keep the weights and print the rest."""
    weights_P, said = play(tuple(asked()))
    np.save(arguments[0], weights_P)
    print(json.dumps(said))


if __name__ == "__main__":
    main(sys.argv[1:])
