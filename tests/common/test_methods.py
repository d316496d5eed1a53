"""Server optimizers, worked by hand and against torch."""

import typing

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from partsong.common.config import AdapterConfig, ServerOptimizerConfig
from partsong.common.methods import METHODS, ServerState, server_step

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
    """Names of the configuration and of the table agree, and FFA alone is exact."""
    names = typing.get_args(typing.get_type_hints(AdapterConfig)["method"])

    assert set(names) == set(METHODS)
    assert [m.name for m in METHODS.values() if m.exact] == [m.name for m in METHODS.values() if not m.trains_a]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_the_mean_of_ffa_products_is_the_product_of_the_mean(seed: int) -> None:
    """What `exact` says: with A shared, averaging B averages B·A; with own A's it does not."""
    rng = np.random.default_rng(seed)
    a_rI, b_SOr, own_SrI = rng.standard_normal((2, 5)), rng.standard_normal((4, 3, 2)), rng.standard_normal((4, 2, 5))

    assert b_SOr.mean(0) @ a_rI == pytest.approx((b_SOr @ a_rI).mean(0))
    assert np.abs(b_SOr.mean(0) @ own_SrI.mean(0) - (b_SOr @ own_SrI).mean(0)).max() > 1e-3
