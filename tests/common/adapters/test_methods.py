"""Server optimizers, worked by hand and against torch."""

import typing
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from partsong.common.adapters.adapter import AdapterLayout, TensorSpec, unflatten
from partsong.common.adapters.aggregation import relative
from partsong.common.adapters.lora import products, truncated
from partsong.common.adapters.methods import METHODS, ServerState, advance, server_step
from partsong.common.adapters.turns import Turn, gather, replaced
from partsong.common.config import AdapterConfig, ServerOptimizerConfig
from partsong.common.plan import Plan

START = np.array([1.0, -1.0])


def run(config: ServerOptimizerConfig, means: list[np.ndarray]) -> ServerState:
    """The state after these means."""
    state = ServerState(adapter_P=START)
    for mean_P in means:
        state = server_step(state, mean_P, config)
    return state


def test_plain_averaging_adds_the_mean() -> None:
    """With rate 1 and one site, the new adapter is the site's own adapter."""
    site_P = np.array([0.25, 7.0])

    state = run(ServerOptimizerConfig(name="fedavg"), [site_P - START])

    assert state.adapter_P.tolist() == site_P.tolist()
    assert (state.memory, state.steps) == ({}, 1)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 100_000), st.floats(0.01, 3.0))
def test_a_step_in_pieces_is_the_step_in_one(size: int, rate: float) -> None:
    """Bit by bit, at every size around the pieces."""
    rng = np.random.default_rng(size)
    before_P, mean_P = rng.standard_normal(size), rng.standard_normal(size)

    state = server_step(ServerState(adapter_P=before_P), mean_P, ServerOptimizerConfig(learning_rate=rate))

    assert (state.adapter_P == before_P + rate * mean_P).all()


def test_momentum_by_hand() -> None:
    """v: 1, then .5 * 1 + 1 = 1.5; adapter 1 + 2 * (1 + 1.5) = 6."""
    config = ServerOptimizerConfig(name="fedavgm", learning_rate=2.0, momentum=0.5)

    state = run(config, [np.array([1.0, 0.0])] * 2)

    assert state.adapter_P.tolist() == [6.0, -1.0]
    assert state.memory["momentum"].tolist() == [1.5, 0.0]


def test_nesterov_by_hand() -> None:
    """v: 1, 1.5; steps 1 + .5 * 1 = 1.5 and 1 + .5 * 1.5 = 1.75; adapter 1 + 3.25."""
    config = ServerOptimizerConfig(name="nesterov", momentum=0.5)

    assert run(config, [np.array([1.0, 0.0])] * 2).adapter_P.tolist() == [4.25, -1.0]


def test_fedadam_by_hand() -> None:
    """Algorithm 2 of Reddi et al. with beta1 .5, beta2 .75, tau 1: no bias correction, v begins at tau squared.

    mean 2: m = 1, v = .75 + .25 * 4 = 1.75, step 1 / (sqrt(1.75) + 1); mean 0: m = .5, v = 1.3125.
    """
    config = ServerOptimizerConfig(name="fedadam", learning_rate=0.1, momentum=0.5, beta2=0.75, tau=1.0)

    state = run(config, [np.array([2.0, 0.0]), np.array([0.0, 0.0])])

    expected = 1 + 0.1 * (1 / (1.75**0.5 + 1) + 0.5 / (1.3125**0.5 + 1))
    assert state.adapter_P == pytest.approx([expected, -1.0], rel=1e-14)
    assert state.memory["second"] == pytest.approx([1.3125, 0.5625], rel=1e-14)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([("fedavgm", False), ("nesterov", True)]), st.floats(0.1, 0.95))
def test_momentum_agrees_with_torch_sgd(seed: int, kind: tuple[str, bool], momentum: float) -> None:
    """A second source: torch's SGD on the negative mean, with and without Nesterov."""
    means = list(np.random.default_rng(seed).standard_normal((5, 2)))
    parameter = torch.nn.Parameter(torch.from_numpy(START.copy()))
    sgd = torch.optim.SGD([parameter], lr=0.7, momentum=momentum, nesterov=kind[1])
    for mean_P in means:
        parameter.grad = torch.from_numpy(-mean_P)
        sgd.step()

    state = run(ServerOptimizerConfig(name=kind[0], learning_rate=0.7, momentum=momentum), means)

    assert state.adapter_P == pytest.approx(parameter.detach().numpy(), rel=1e-12)


def test_the_two_kinds_of_momentum_differ() -> None:
    """Control: the comparison with torch would notice one taken for the other."""
    means = [np.array([1.0, 2.0])] * 3

    a, b = (run(ServerOptimizerConfig(name=name), means) for name in ("fedavgm", "nesterov"))

    assert np.abs(a.adapter_P - b.adapter_P).min() > 0.1


def test_a_step_leaves_the_state_before_it_alone() -> None:
    """States are values: a checkpoint taken before a step does not change with it."""
    config = ServerOptimizerConfig(name="fedadam")
    before = run(config, [np.array([1.0, 1.0])])
    copies = {name: value.copy() for name, value in before.memory.items()}

    server_step(before, np.array([5.0, 5.0]), config)

    assert before.adapter_P is not START
    assert all((before.memory[name] == copies[name]).all() for name in copies)


def test_every_method_of_the_configuration_is_known() -> None:
    """Names of the configuration, of the plan and of the table agree."""
    names = typing.get_args(typing.get_type_hints(AdapterConfig)["method"])

    assert set(names) == set(METHODS) == set(typing.get_args(typing.get_type_hints(Plan)["method"]))
    assert set(FORMS) == set(METHODS)


SHAPES = {"A": (2, 5), "B": (3, 2), "B.core": (2, 2), "B.basis": (3, 2), "B.product": (3, 5)} | {
    "B.range": (3, 2), "B.corange": (5, 5), "B.omega": (2, 5), "B.psi": (5, 3)
}  # fmt: skip
PART_OF = {"A": "A", "B": "B", "B.core": "core", "B.basis": "basis", "B.product": "product"} | {
    "B.range": "product", "B.corange": "product", "B.omega": "public", "B.psi": "public"
}  # fmt: skip
FORMS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "ffa": (("A", "B"), ()),
    "fedit": (("A", "B"), ()),
    "rolora": (("A", "B"), ("B", "A")),
    "fedsb": (("A", "B.core", "B.basis"), ()),
    "fedrot": (("A", "B"), ()),
    "hlora": (("A", "B.product"), ()),
    "sketch": (("A", "B.range", "B.corange", "B.omega", "B.psi"), ()),
}
"""Tensors of a layer, and the turns, of each method."""


def planned(make_plan: Callable[..., Plan], name: str, **changes: Any) -> Plan:
    """A plan of this method for one layer."""
    parts, turns = FORMS[name]
    trained = METHODS[name].trains
    layout = AdapterLayout(
        tensors=tuple(
            TensorSpec(name=f"q.lora_{p}.weight", shape=SHAPES[p], trained=PART_OF[p] in trained) for p in parts
        )
    )
    made = tuple(Turn(trains=part, learning_rate=1.0, clip_norm=1.0, update_clip=1.0) for part in turns)
    return make_plan(method=name, layout=layout, turns=made, rounds=4, **changes)


def product_of(plan: Plan, trained_P: np.ndarray, frozen_F: np.ndarray) -> np.ndarray:
    """The layer's product B·A in float64."""
    layout = plan.layout
    tensors = unflatten(trained_P, layout.trained) | unflatten(frozen_F, layout.frozen)
    return products(tensors)["q"]


def averaged(plan: Plan, number: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A round of four sites that move at random: the product it ends with, and the mean of the sites' products."""
    layout, turn = plan.layout, plan.turn(number)
    start_P, frozen_F = (rng.standard_normal(layout.size(trained=trained)) for trained in (True, False))
    moves = rng.standard_normal((4, plan.update_size(number)))
    sites = [replaced(start_P, gather(start_P, layout, turn) + move, layout, turn) for move in moves]

    ended = advance(ServerState(adapter_P=start_P), moves.mean(0), plan, number=number)

    return product_of(plan, ended.adapter_P, frozen_F), np.mean([product_of(plan, s, frozen_F) for s in sites], axis=0)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_a_method_is_as_exact_as_it_says(make_plan: Callable[..., Plan], name: str) -> None:
    """Exact ones agree with the mean of the sites' products to 1e-6 in float64, in every turn; the others do not."""
    plan, rng = planned(make_plan, name), np.random.default_rng(1)

    errors = [relative(*averaged(plan, number, rng)) for number in (1, 2, 3, 4) for _ in range(5)]

    assert (max(errors) < 1e-6) == METHODS[name].exact
    assert min(errors) > 1e-3 or METHODS[name].exact


@pytest.mark.parametrize("name", sorted(METHODS))
def test_noise_enters_the_product_in_the_order_that_a_method_says(make_plan: Callable[..., Plan], name: str) -> None:
    """The second difference of the product along the noise is nothing where it is linear, and the noise squared else."""
    plan, rng = planned(make_plan, name), np.random.default_rng(2)
    start_P, frozen_F = (rng.standard_normal(plan.layout.size(trained=trained)) for trained in (True, False))
    for number in (1, 2):
        noise = rng.standard_normal(plan.update_size(number))
        noisy = [
            product_of(
                plan, advance(ServerState(adapter_P=start_P), k * noise, plan, number=number).adapter_P, frozen_F
            )
            for k in (0, 1, 2)
        ]

        bend = float(np.abs(noisy[2] - 2 * noisy[1] + noisy[0]).max())

        assert {"linear": bend < 1e-9, "quadratic": bend > 1e-2}[METHODS[name].dp_noise_order]


@pytest.mark.parametrize("optimizer", ["fedavg", "fedavgm", "nesterov", "fedadam"])
def test_a_round_leaves_what_it_does_not_train_and_each_factor_remembers_for_itself(
    make_plan: Callable[..., Plan], optimizer: str
) -> None:
    """RoLoRA under every server optimizer: the other factor keeps its bits, and B moves as if A's rounds were not."""
    config = ServerOptimizerConfig(name=optimizer)  # type: ignore[arg-type]
    plan, rng = planned(make_plan, "rolora", optimizer=config), np.random.default_rng(3)
    state = alone = ServerState(adapter_P=rng.standard_normal(16))
    both = plan.layout.trained
    for number in (1, 2, 3, 4):
        before, mean_Q = state, rng.standard_normal(plan.update_size(number))
        state = advance(state, mean_Q, plan, number=number)
        part, other = ("B", "A") if number % 2 else ("A", "B")
        now, then = unflatten(state.adapter_P, both), unflatten(before.adapter_P, both)
        assert (now[f"q.lora_{other}.weight"] == then[f"q.lora_{other}.weight"]).all()
        assert (now[f"q.lora_{part}.weight"] != then[f"q.lora_{part}.weight"]).any()
        if part == "B":
            alone = advance(alone, mean_Q, plan, number=number)

    assert (state.adapter_P[10:] == alone.adapter_P[10:]).all()
    assert state.steps == 4


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_normalised_averaging_is_plain_averaging_where_all_sites_take_the_same_steps(seed: int) -> None:
    """FedNova (Wang et al. 2020, arXiv 2007.07481) divides by a site's steps and multiplies by their mean.

    Every site takes the plan's steps, an empty sample being one of them, so nothing is left to normalise; with other
    numbers of steps it would not be so.
    """
    rng = np.random.default_rng(seed)
    move_SP, weight_S = rng.standard_normal((4, 3)), rng.dirichlet(np.ones(4))

    def nova(steps_S: np.ndarray) -> np.ndarray:
        return (weight_S @ steps_S) * (weight_S @ (move_SP / steps_S[:, None]))

    assert nova(np.full(4, 7.0)) == pytest.approx(weight_S @ move_SP)
    assert nova(np.array([1.0, 2.0, 3.0, 9.0])) != pytest.approx(weight_S @ move_SP)


def test_fedsvd_turns_inside_the_subspace_that_ffa_has() -> None:
    """Equivalence that is documented instead of a method: rows of A stay in their span, whatever the server's SVD does.

    FedSVD (arXiv 2505.12805) sets A to the right singular vectors of B·A after each round. From an orthonormal A the
    projector on its rows stays, so only coordinates change, and SGD on B takes the same steps in either; from a B that
    has another A to learn it with, it would not.
    """
    rng = np.random.default_rng(5)
    a_rI = start_rI = np.linalg.qr(rng.standard_normal((12, 3)))[0].T
    b_Or = np.zeros((8, 3))
    ours_Or = np.zeros((8, 3))
    for _ in range(20):
        gradient_OI = rng.standard_normal((8, 12))
        b_Or, ours_Or = b_Or - 0.1 * gradient_OI @ a_rI.T, ours_Or - 0.1 * gradient_OI @ start_rI.T

        left_Or, a_rI = truncated(b_Or @ a_rI, rank=3)
        b_Or = left_Or

        assert np.abs(a_rI.T @ a_rI - start_rI.T @ start_rI).max() < 1e-10
        assert b_Or @ a_rI == pytest.approx(ours_Or @ start_rI, abs=1e-10)
    moved_rI = np.linalg.qr((a_rI + 1e-3 * rng.standard_normal(a_rI.shape)).T)[0].T
    assert np.abs(moved_rI.T @ moved_rI - start_rI.T @ start_rI).max() > 1e-5
