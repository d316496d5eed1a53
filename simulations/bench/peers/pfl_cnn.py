"""The image task in pfl-research.

    python -m partsong.simulations.bench.peers.pfl_cnn WEIGHTS

reads who is asked in each round from stdin, writes the weights after the first round to the file WEIGHTS and prints one
JSON object.
It needs pfl, torch and numpy alone. Written against pfl 0.6.
"""

from __future__ import annotations

import importlib
import itertools
import json
import statistics
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from partsong.simulations.bench import cnn_task
from partsong.simulations.bench.peers.process import asked


class Network(nn.Module):
    """The network with the two functions that pfl asks a model for."""

    def __init__(self) -> None:
        """Start as all contenders do."""
        super().__init__()
        self.layers = cnn_task.network()

    def forward(self, pictures_B: Tensor) -> Tensor:
        """Classify."""
        found: Tensor = self.layers(pictures_B)
        return found

    def loss(self, pictures_B: Tensor, classes_B: Tensor) -> Tensor:
        """Train on a batch."""
        self.train()
        return cnn_task.loss_of(self, pictures_B, classes_B)

    def metrics(self, pictures_B: Tensor, classes_B: Tensor) -> dict[str, Any]:
        """Score nothing."""
        del pictures_B, classes_B
        return {}


def play(cohorts: Sequence[Sequence[int]]) -> tuple[NDArray[np.float32], dict[str, float]]:
    """Train the users in their order; give the weights after the first round, and time the rounds."""
    pfl = importlib.import_module
    torch.set_num_threads(1)
    network, ends, first = Network(), list[float](), list[NDArray[np.float32]]()
    no_metrics = pfl("pfl.metrics").Metrics

    class Clock:
        """Notes when each round ends."""

        def on_train_begin(self, *, model: object) -> object:
            del model
            return no_metrics()

        def after_central_iteration(self, _metrics: object, _model: object, *, central_iteration: int) -> object:
            if central_iteration == 0:
                first.append(cnn_task.weights(network))
            ends.append(time.perf_counter())
            return False, no_metrics()

        def on_train_end(self, *, model: object) -> None:
            del model

    order = iter([user for cohort in cohorts for user in cohort])
    data = pfl("pfl.data.federated_dataset").FederatedDataset(
        lambda user: pfl("pfl.data.dataset").Dataset(raw_data=list(cnn_task.pictures(user))), lambda: next(order)
    )
    pfl("pfl.algorithm.federated_averaging").FederatedAveraging().run(
        algorithm_params=pfl("pfl.algorithm.base").NNAlgorithmParams(
            central_num_iterations=len(cohorts),
            evaluation_frequency=len(cohorts) + 1,
            train_cohort_size=len(cohorts[0]),
            val_cohort_size=None,
        ),
        backend=pfl("pfl.aggregate.simulate").SimulatedBackend(training_data=data, val_data=data),
        model=pfl("pfl.model.pytorch").PyTorchModel(
            network, torch.optim.SGD, torch.optim.SGD(network.parameters(), lr=1.0)
        ),
        model_train_params=pfl("pfl.hyperparam.base").NNTrainHyperParams(
            local_batch_size=cnn_task.BATCH, local_num_epochs=1, local_learning_rate=cnn_task.LEARNING_RATE
        ),
        callbacks=[Clock()],
    )
    steady = [end - begin for begin, end in itertools.pairwise(ends)]
    return first[0], {"round_ms": 1000 * statistics.median(steady)}


def main(arguments: Sequence[str]) -> None:
    """Keep the weights and print the rest."""
    weights_P, said = play(asked())
    np.save(arguments[0], weights_P)
    print(json.dumps(said))


if __name__ == "__main__":
    main(sys.argv[1:])
