"""A small image task in the shape of pfl-research's CIFAR-10 benchmark, on made-up pictures.

Each user has 50 pictures of 32 x 32 x 3 in ten classes and trains a small CNN for one pass in batches of ten. Shared by
all contenders, so it imports nothing but numpy and torch.

Source: Granqvist et al. 2024 (arXiv 2404.06430, section 4): users, points, batch and learning rate.
Shapes: N pictures of a user, P parameters of the network.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

CLASSES, POINTS, BATCH, LEARNING_RATE = 10, 50, 10, 0.1
_SIDE, _NOISE, _SEED = 32, 0.5, 7


def network() -> nn.Sequential:
    """Make the network, with the same start every time."""
    torch.manual_seed(_SEED)
    flat = 64 * ((_SIDE - 4) // 2) ** 2
    return nn.Sequential(
        nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(flat, 128), nn.ReLU(), nn.Linear(128, CLASSES),
    )  # fmt: skip


def pictures(user: int) -> tuple[Tensor, Tensor]:
    """Make a user's pictures and their classes; no two users have the same."""
    means, rng = _means(), np.random.default_rng((_SEED, user))
    classes_N = rng.integers(0, CLASSES, POINTS)
    noise = rng.standard_normal((POINTS, 3, _SIDE, _SIDE), dtype=np.float32)
    return torch.from_numpy(_NOISE * means[classes_N] + noise), torch.from_numpy(classes_N)


@functools.cache
def _means() -> NDArray[np.float32]:
    return np.random.default_rng(_SEED).standard_normal((CLASSES, 3, _SIDE, _SIDE), dtype=np.float32)


def batches(pictures_N: Tensor, classes_N: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Cut a user's pictures into batches, in their order."""
    for start in range(0, len(classes_N), BATCH):
        yield pictures_N[start : start + BATCH], classes_N[start : start + BATCH]


def loss_of(model: nn.Module, pictures_B: Tensor, classes_B: Tensor) -> Tensor:
    """Mean cross-entropy of a batch."""
    return nn.functional.cross_entropy(model(pictures_B), classes_B)


def train(model: nn.Module, data: tuple[Tensor, Tensor]) -> None:
    """Take a user's steps of plain SGD."""
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
    model.train()
    for batch in batches(*data):
        optimizer.zero_grad()
        loss_of(model, *batch).backward()  # type: ignore[no-untyped-call]  # torch has no types for it
        optimizer.step()


def weights(model: nn.Module) -> NDArray[np.float32]:
    """Give a copy of all parameters as one vector."""
    # Torch makes a new vector of them.
    vector: NDArray[np.float32] = nn.utils.parameters_to_vector(model.parameters()).detach().numpy()
    return vector


def put(model: nn.Module, weights_P: NDArray[np.float32]) -> NDArray[np.float32]:
    """Set all parameters, and give the vector that they are parts of from now on: training changes it in place."""
    vector_P = weights_P.copy()
    with torch.no_grad():
        nn.utils.vector_to_parameters(torch.from_numpy(vector_P), model.parameters())
    return vector_P
