"""What an optimizer remembers goes through vectors and back."""

import numpy as np
import pytest
import torch

from partsong.client.encoders import optimizer_state


def make(optim: str, seed: int) -> tuple[torch.optim.Optimizer, list[torch.nn.Parameter]]:
    """Two parameters of different shapes."""
    rng = torch.Generator().manual_seed(seed)
    parameters = [torch.nn.Parameter(torch.randn(shape, generator=rng)) for shape in ((3, 4), (5,))]
    if optim == "sgd":
        return torch.optim.SGD(parameters, lr=0.1, weight_decay=0.01), parameters
    return torch.optim.AdamW(parameters, lr=0.1, weight_decay=0.01), parameters


def steps(optimizer: torch.optim.Optimizer, parameters: list[torch.nn.Parameter], *, first: int, behind: int) -> None:
    """Steps with gradients that depend on their number alone."""
    for number in range(first, behind):
        rng = torch.Generator().manual_seed(number)
        for parameter in parameters:
            parameter.grad = torch.randn(parameter.shape, generator=rng)
        optimizer.step()


@pytest.mark.parametrize("optim", ["sgd", "adamw"])
def test_later_steps_are_equal_bit_by_bit(optim: str) -> None:
    """Against an optimizer that took all steps itself; without its memory AdamW goes elsewhere, SGD has none."""
    whole, expected = make(optim, seed=1)
    steps(whole, expected, first=0, behind=3)
    slots = optimizer_state.take(whole)
    there = [[torch.nn.Parameter(p.detach().clone()) for p in expected] for _ in range(2)]
    fresh, forgetful = (type(whole)(p, lr=0.1, weight_decay=0.01) for p in there)
    optimizer_state.put(fresh, slots, step=3)

    for optimizer, parameters in ((whole, expected), (fresh, there[0]), (forgetful, there[1])):
        steps(optimizer, parameters, first=3, behind=6)

    assert all(torch.equal(a, b) for a, b in zip(expected, there[0], strict=True))
    assert all(torch.equal(a, b) for a, b in zip(expected, there[1], strict=True)) is (optim == "sgd")


def test_another_optimizers_memory_is_refused() -> None:
    """By its names and by its sizes; nothing is changed."""
    adam, parameters = make("adamw", seed=1)
    steps(adam, parameters, first=0, behind=1)
    slots = optimizer_state.take(adam)
    sgd, fresh = make("sgd", seed=1)[0], make("adamw", seed=1)[0]

    for optimizer, given in (
        (sgd, slots),
        (fresh, ()),
        (fresh, slots[::-1]),
        (fresh, tuple((name, vector_P[:-1]) for name, vector_P in slots)),
        (fresh, (slots[0], (slots[1][0], np.zeros(3, np.float32)))),
    ):
        with pytest.raises(ValueError, match="slots"):
            optimizer_state.put(optimizer, given, step=1)
    assert not fresh.state
    assert not sgd.state
