"""Federated LoRA methods and server optimizers: what is trained, and what the coordinator does with a mean.

Shape letters: P trained parameters.

Everything here is deterministic float64 arithmetic on public values (the opened mean and the optimizer's own state),
so a site can recompute the published adapter. What a round trains stands in the plan (`turns`); what a site adds to a
sum is the change of those parameters, in the order of the layout.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from partsong.common.adapters.adapter import FloatVec
from partsong.common.adapters.medians import collect
from partsong.common.adapters.turns import gather, replaced
from partsong.common.config import ServerOptimizerConfig
from partsong.common.plan import Plan
from partsong.common.questions.counting import is_kept

Vec64 = NDArray[np.float64]
_PIECE = 1 << 15
"""Entries, so that a piece of each array fits into a second-level cache."""

_CANDIDATE = "candidate/"

MethodName = Literal["ffa", "fedit", "rolora", "fedsb", "fedrot", "hlora", "sketch"]
Exactness = Literal["exact", "near", "not exact"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Method:
    """One way to average low-rank adapters."""

    name: MethodName
    trains: tuple[Literal["A", "B", "core", "product"], ...]
    """Factors that are ever trained, each where it is its turn; core: a square matrix between the two; product: both,
    at whatever rank a site chooses, of which B·A is sent."""
    exactness: Exactness
    """Of the averaged adapter's product B·A, against the average of the sites' products. exact: equal. near: closer
    than two separate averages, not equal (of sketch: equal only where it is wide enough)."""
    dp_noise_order: Literal["linear", "quadratic"]
    """How noise on what a round sends enters the product: quadratic is noise times noise. Of hlora a site's own noise
    would be on both factors, so that a plan of it has no privacy terms."""
    source: str

    @property
    def exact(self) -> bool:
        """Whether averaging loses nothing."""
        return self.exactness == "exact"


METHODS: dict[str, Method] = {
    "ffa": Method(
        name="ffa",
        trains=("B",),
        exactness="exact",
        dp_noise_order="linear",
        source="Sun et al. 2024, FFA-LoRA, arXiv 2403.12313",
    ),
    "fedit": Method(
        name="fedit",
        trains=("A", "B"),
        exactness="not exact",
        dp_noise_order="quadratic",
        source="Zhang et al. 2023, FedIT, arXiv 2305.05644",
    ),
    "rolora": Method(
        name="rolora",
        trains=("A", "B"),
        exactness="exact",
        dp_noise_order="linear",
        source="Chen et al. 2025, RoLoRA, arXiv 2409.02346",
    ),
    "fedsb": Method(
        name="fedsb",
        trains=("core",),
        exactness="exact",
        dp_noise_order="linear",
        source="Singhal et al. 2025, Fed-SB, arXiv 2502.15436",
    ),
    "fedrot": Method(
        name="fedrot",
        trains=("A", "B"),
        exactness="near",
        dp_noise_order="quadratic",
        source="FedRot-LoRA 2026, arXiv 2602.23638",
    ),
    "hlora": Method(
        name="hlora",
        trains=("product",),
        exactness="exact",
        dp_noise_order="linear",
        source="HLoRA 2025, arXiv 2503.00813; Bai et al. 2024, FlexLoRA, arXiv 2402.11505",
    ),
    "sketch": Method(
        name="sketch",
        trains=("product",),
        exactness="near",
        dp_noise_order="quadratic",
        source="FlexLoRA, arXiv 2402.11505, through the sketches of Tropp et al. 2017, arXiv 1609.00048",
    ),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerState:
    """The global adapter and what its optimizer remembers."""

    adapter_P: Vec64
    memory: dict[str, Vec64] = field(default_factory=dict)
    """`momentum` and `second`, each (P,), for the optimizers that have them. Between a round and the vote on it: also
    `candidate/adapter` and the memory that goes with it. Until all groups have a sum: the means of those that do."""
    steps: int = 0

    @property
    def candidate(self) -> ServerState | None:
        """The state that the next vote keeps or drops; None where nothing waits for a vote."""
        mine = {
            name.removeprefix(_CANDIDATE): value for name, value in self.memory.items() if name.startswith(_CANDIDATE)
        }
        return ServerState(adapter_P=mine.pop("adapter"), memory=mine, steps=self.steps + 1) if mine else None

    @property
    def kept(self) -> ServerState:
        """The state without what waits for a vote."""
        mine = {name: value for name, value in self.memory.items() if not name.startswith(_CANDIDATE)}
        return ServerState(adapter_P=self.adapter_P, memory=mine, steps=self.steps)


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
    return ServerState(
        adapter_P=_moved(state.adapter_P, change_P, rate=config.learning_rate), memory=memory, steps=state.steps + 1
    )


def _moved(adapter_P: Vec64, change_P: Vec64, *, rate: float) -> Vec64:
    """Give adapter + rate * change. In pieces that stay in a processor's cache, so memory is passed over once."""
    moved_P = np.empty_like(adapter_P)
    for start in range(0, adapter_P.size, _PIECE):
        piece = slice(start, start + _PIECE)
        part = np.multiply(change_P[piece], rate, out=moved_P[piece])
        part += adapter_P[piece]
    return moved_P


def advance(state: ServerState, mean_Q: Vec64, plan: Plan, *, number: int) -> ServerState:
    """Move the part of the global adapter that round `number` trains; the rest keeps its values, bit by bit.

    Each turn has its own memory of the server optimizer. A question moves nothing. Where rounds are voted on, a round
    only leaves a candidate, and the vote after it moves the adapter there or drops it; a candidate that no vote was
    about is dropped by the next round. With groups the last round of a step moves the adapter, by the median of the
    groups' means.

    Args:
        state: the adapter before the round.
        mean_Q: (Q,) mean of the sites' updates [weight units].
        plan: of the run.
        number: of the round.
    """
    if plan.question is not None:
        return state
    if plan.groups is not None:
        memory, median_Q = collect(state.memory, mean_Q, plan.groups, number=number)
        state = ServerState(adapter_P=state.adapter_P, memory=memory, steps=state.steps)
        return state if median_Q is None else _trained(state, median_Q, plan, number=number)
    if plan.is_vote(number):
        waiting = state.candidate
        return state.kept if waiting is None or not is_kept(mean_Q) else waiting
    if plan.vote is None:
        return _trained(state, mean_Q, plan, number=number)
    moved = _trained(state.kept, mean_Q, plan, number=number)
    waiting_memory = {_CANDIDATE + name: value for name, value in (*moved.memory.items(), ("adapter", moved.adapter_P))}
    return ServerState(adapter_P=state.adapter_P, memory=state.kept.memory | waiting_memory, steps=state.steps)


def asked_about(state: ServerState, plan: Plan, *, number: int) -> FloatVec:
    """Give the vector that goes out with round `number`: the adapter, and in a vote what it may become after it.

    Args:
        state: the adapter before the round.
        plan: of the run.
        number: of the round; a vote only where a candidate waits for it.
    Returns:
        (P,) or in a vote (2P,), in single precision.
    """
    with np.errstate(over="ignore"):  # what is too large becomes infinite, and whoever gets it says so
        adapter_P = state.adapter_P.astype(np.float32)
        if not plan.is_vote(number):
            return adapter_P
        waiting = state.candidate
        if waiting is None:
            raise ValueError("a candidate for a vote to be about")
        return np.concatenate([adapter_P, waiting.adapter_P.astype(np.float32)])


def _trained(state: ServerState, mean_Q: Vec64, plan: Plan, *, number: int) -> ServerState:
    if (turn := plan.turn(number)) is None:
        return server_step(state, mean_Q, plan.optimizer)
    prefix = f"{turn.trains}/"
    mine = {name.removeprefix(prefix): value for name, value in state.memory.items() if name.startswith(prefix)}
    part = ServerState(adapter_P=gather(state.adapter_P, plan.layout, turn), memory=mine, steps=state.steps)
    moved = server_step(part, mean_Q, plan.optimizer)
    return ServerState(
        adapter_P=replaced(state.adapter_P, moved.adapter_P, plan.layout, turn),
        memory=state.memory | {prefix + name: value for name, value in moved.memory.items()},
        steps=moved.steps,
    )


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
