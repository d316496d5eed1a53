"""The adapter's task played by sites of this package, as `partsong simulate` plays it.

    python -m partsong.simulations.bench.adapter_sites WEIGHTS

reads the configuration from stdin, plays it as a federation, writes the last weights to the file WEIGHTS and prints one
JSON object.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Sequence

import numpy as np

from partsong.common import events
from partsong.simulations.bench.peers.process import asked
from partsong.simulations.configure import compose_simulation
from partsong.simulations.engine.processes import crew_of


def main(arguments: Sequence[str]) -> None:
    """Keep the weights, and print what a round takes."""
    config, ends = compose_simulation(asked()), list[float]()

    def listen(event: events.Event) -> None:
        if isinstance(event, (events.RoundOpened, events.RoundSummed)):
            ends.append(time.perf_counter())

    with crew_of(config) as crew:
        # As in the command: while torch is imported here, the workers warm up.
        from partsong.simulations.federation import Federation
        from partsong.simulations.prepare import prepare
        from partsong.simulations.run_dir import RunDir

        result = Federation(prepare(config), RunDir.create(config, marks=()), listen=listen, crew=crew).run()
    np.save(arguments[0], result.trained_P)
    steady = [end - begin for begin, end in zip(ends[2::2], ends[3::2], strict=True)]
    print(json.dumps({"round_ms": 1000 * statistics.median(steady)}))


if __name__ == "__main__":
    main(sys.argv[1:])
