"""The image task played by sites of this package: the real coordinator, sites, ledgers and encoding.

    python -m partsong.simulations.bench.cnn_sites USERS COHORT ROUNDS WEIGHTS

writes the weights after the first round to the file WEIGHTS and prints one JSON object: who was asked in each round,
and the median round but the first. The first round's, because training this network makes a rounding error a thousand
times larger within a few rounds, whoever does it.
"""

from __future__ import annotations

import functools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file

from partsong.client.encoders.encoder import LocalRound, LocalUpdate
from partsong.client.rules.consent import Facts
from partsong.common import events
from partsong.common.adapters.adapter import FloatVec
from partsong.common.canary import NO_MODEL
from partsong.common.plan import Plan
from partsong.server.daemon.canary import make_canary
from partsong.simulations.bench import cnn_task
from partsong.simulations.bench.sim_sites import MEMORY
from partsong.simulations.dry_run import DryRun, DryTerms

_CLIP = 0.25
"""Of one weight's change in a round: five steps at 0.1 with gradients far below 0.5."""


class Painter:
    """An encoder that trains the network on one user's pictures, from the start that everybody has."""

    resumes = False

    def __init__(self, user: int, model: torch.nn.Module, start_P: FloatVec) -> None:
        """Share `model` with all other users of this process."""
        self._user, self._model, self._start_P = user, model, start_P

    def facts(self, plan: Plan) -> Facts:
        """Say that there is no base model and not one record: the pictures are made up."""
        return Facts(records=0, base_sha256=NO_MODEL, layout=plan.layout)

    def encode(self, asked: LocalRound) -> LocalUpdate:
        """Train, and give the change of all weights."""
        before_P = self._start_P + asked.adapter_P
        # Torch's own: afterwards the parameters are views of this vector, and training changes it.
        update_P = cnn_task.put(self._model, before_P)
        cnn_task.train(self._model, cnn_task.pictures(self._user))
        update_P -= before_P
        return LocalUpdate(update_P=update_P, loss=0.0, visits=0, tokens=0, nonfinite=0, events=())


def plan_of(*, size: int, cohort: int, rounds: int) -> Plan:
    """Make a plan whose vectors hold changes of weights."""
    plan = make_canary(run="cnn", size=size, rounds=rounds, max_sites=cohort, minimum_cohort=3, seed=0)
    update, loss = plan.encoding.blocks
    encoding = replace(plan.encoding, blocks=(replace(update, clip=_CLIP), loss))
    return replace(plan, encoding=encoding, masked=False, spot_checks=False)


def play(*, users: int, cohort: int, rounds: int) -> tuple[FloatVec, dict[str, Any]]:
    """Train, and give the weights after the first round and what is printed."""
    torch.set_num_threads(1)
    model = cnn_task.network()
    start_P = cnn_task.weights(model)
    names, ends = tuple(f"user-{i:04}" for i in range(users)), list[float]()
    number_of = {name: number for number, name in enumerate(names)}

    def listen(event: events.Event) -> None:
        if isinstance(event, (events.RoundOpened, events.RoundSummed)):
            ends.append(time.perf_counter())

    @functools.cache
    def encoder(name: str) -> Painter:
        return Painter(number_of[name], model, start_P)

    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder:
        terms = DryTerms(
            plan=plan_of(size=start_P.size, cohort=cohort, rounds=rounds),
            names=names,
            consortium=None,
            sample=cohort,
            awake=cohort,
            encoder=encoder,
        )
        run = DryRun(terms, Path(folder), listen=listen)
        result = run.run()
        run.close()
        first_P = load_file(Path(folder) / "checkpoint" / "round-0001.safetensors")["adapter"]
    asked = [[number_of[name] for name in entry["sites"]] for entry in result.history]
    steady = [end - begin for begin, end in zip(ends[2::2], ends[3::2], strict=True)]
    return (start_P + first_P).astype(np.float32), {"asked": asked, "round_ms": 1000 * statistics.median(steady)}


def main(arguments: Sequence[str]) -> None:
    """Keep the weights and print the rest."""
    users, cohort, rounds = map(int, arguments[:3])
    weights_P, said = play(users=users, cohort=cohort, rounds=rounds)
    np.save(arguments[3], weights_P)
    print(json.dumps(said))


if __name__ == "__main__":
    main(sys.argv[1:])
