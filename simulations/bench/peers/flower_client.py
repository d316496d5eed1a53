"""A client of Flower's simulation that trains one site of the adapter's task.

Apart from the program that starts the simulation: Ray's actors import it.
"""

from __future__ import annotations

import functools

import torch
from flwr.app import ArrayRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from partsong.common.adapters.adapter import FloatVec
from partsong.common.plan import Plan
from partsong.simulations.bench.adapter_task import plan_of, update_of
from partsong.simulations.configure import compose_simulation
from partsong.simulations.federation import fresh_adapter
from partsong.simulations.prepare import Prepared, prepare


@functools.cache
def loaded(overrides: tuple[str, ...]) -> tuple[Prepared, Plan, FloatVec]:
    """Load model and records, once in an actor."""
    torch.set_num_threads(1)
    task = prepare(compose_simulation(overrides))
    return task, plan_of(task), fresh_adapter(task)[1]


def client_of(overrides: tuple[str, ...]) -> ClientApp:
    """Make the client: told a site's name, a round and the adapter, it answers with the site's update."""
    app = ClientApp()

    @app.train()
    def train(message: Message, _context: Context) -> Message:
        task, plan, frozen_F = loaded(overrides)
        (config,), (arrays,) = message.content.config_records.values(), message.content.array_records.values()
        update_P = update_of(
            task,
            plan,
            site=str(config["site"]),
            number=int(str(config["round"])),
            state_P=arrays.to_numpy_ndarrays()[0].copy(),
            frozen_F=frozen_F,
        )
        return Message(RecordDict({"update": ArrayRecord([update_P])}), reply_to=message)

    return app
