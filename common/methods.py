"""Federated LoRA methods and server optimizers: what is trained, and what the coordinator does with a mean.

Shape letters: P trained parameters.

Everything here is deterministic float64 arithmetic on public values (the opened mean and the optimizer's own state),
so a site can recompute the published adapter.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from partsong.common.config import ServerOptimizerConfig

Vec64 = NDArray[np.float64]
MethodName = Literal["ffa", "fedit"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Method:
    """One way to average low-rank adapters."""

    name: MethodName
    trains_a: bool
    exact: bool
    """Whether the averaged adapter equals the average of the sites' products B·A."""
    source: str


METHODS: dict[str, Method] = {
    "ffa": Method(name="ffa", trains_a=False, exact=True, source="Sun et al. 2024, FFA-LoRA, arXiv 2403.12313"),
    "fedit": Method(name="fedit", trains_a=True, exact=False, source="Zhang et al. 2023, FedIT, arXiv 2305.05644"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerState:
    """The global adapter and what its optimizer remembers."""

    adapter_P: Vec64
    memory: dict[str, Vec64] = field(default_factory=dict)
    """`momentum` and `second`, each (P,), for the optimizers that have them."""
    steps: int = 0


def server_step(state: ServerState, mean_P: Vec64, config: ServerOptimizerConfig) -> ServerState:
    """Move the global adapter along the mean update of a round.

    The mean is treated as the negative of a gradient (Reddi et al. 2021, arXiv 2003.00295, algorithm 2).

    Args:
        state: the adapter before the round.
        mean_P: (P,) mean of the sites' updates [weight units].
        config: which optimizer and its constants.
    """
    step = _STEPS[config.name]
    change_P, memory = step(mean_P, state.memory, config)
    adapter_P = config.learning_rate * change_P
    adapter_P += state.adapter_P
    return ServerState(adapter_P=adapter_P, memory=memory, steps=state.steps + 1)


Memory = dict[str, Vec64]


def _fedavg(mean_P: Vec64, _memory: Memory, _config: ServerOptimizerConfig) -> tuple[Vec64, Memory]:
    """McMahan et al. 2017, arXiv 1602.05629."""
    return mean_P, {}


def _fedavgm(mean_P: Vec64, memory: Memory, config: ServerOptimizerConfig) -> tuple[Vec64, Memory]:
    """Hsu et al. 2019, arXiv 1909.06335: v <- m·v + mean, step v."""
    momentum_P = config.momentum * memory.get("momentum", np.zeros_like(mean_P)) + mean_P
    return momentum_P, {"momentum": momentum_P}


def _nesterov(mean_P: Vec64, memory: Memory, config: ServerOptimizerConfig) -> tuple[Vec64, Memory]:
    """The outer optimizer of Douillard et al. 2023, DiLoCo, arXiv 2311.08105: v <- m·v + mean, step mean + m·v."""
    momentum_P = config.momentum * memory.get("momentum", np.zeros_like(mean_P)) + mean_P
    return mean_P + config.momentum * momentum_P, {"momentum": momentum_P}


def _fedadam(mean_P: Vec64, memory: Memory, config: ServerOptimizerConfig) -> tuple[Vec64, Memory]:
    """Reddi et al. 2021, algorithm 2, FedAdam; no bias correction, v starts at tau squared."""
    first = config.momentum * memory.get("momentum", np.zeros_like(mean_P)) + (1 - config.momentum) * mean_P
    before = memory.get("second", np.full_like(mean_P, config.tau**2))
    second = config.beta2 * before + (1 - config.beta2) * mean_P**2
    return first / (np.sqrt(second) + config.tau), {"momentum": first, "second": second}


_STEPS: dict[str, Callable[[Vec64, Memory, ServerOptimizerConfig], tuple[Vec64, Memory]]] = {
    "fedavg": _fedavg,
    "fedavgm": _fedavgm,
    "nesterov": _nesterov,
    "fedadam": _fedadam,
}
