"""A stacked layer gives the records of each site what that site's own layer gives them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from partsong.common.errors import ModelError
from partsong.simulations.stacked.layers import StackedLinear, owners, stacked

IN, OUT = 5, 3


def stirred(tensors: tuple[torch.Tensor, ...], seed: int) -> None:
    """Give the sites unlike values."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in tensors:
            tensor.add_(torch.randn(tensor.shape, generator=generator))


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(0, 4), min_size=1, max_size=5).filter(any),
    positions=st.sampled_from([(), (1,), (4,), (2, 3)]),
    bias=st.booleans(),
    seed=st.integers(0, 999),
)
def test_values_and_gradients_are_those_of_a_layer_for_each_site(
    *, counts: list[int], positions: tuple[int, ...], bias: bool, seed: int
) -> None:
    """For any number of records, also none, and any shape behind the records."""
    layer = nn.Linear(IN, OUT, bias=bias)
    present = [site for site, count in enumerate(counts) if count]
    torch.manual_seed(seed)
    rows = torch.randn(sum(counts), *positions, IN, requires_grad=True)
    factor = torch.randn(sum(counts), *positions, OUT)
    with stacked(layer, list(layer.parameters()), sites=len(counts)) as stack:
        stirred(stack.tensors, seed)
        stack.seating.sites = tuple(present)
        stack.seating.counts = tuple(counts[site] for site in present)

        found = layer(rows)
        (found * factor).sum().backward()

        own = [tensor.detach().clone().requires_grad_() for tensor in stack.tensors]
        parts = rows.detach().split(counts)
        expected = torch.cat(
            [nn.functional.linear(part, own[0][s], own[1][s] if bias else None) for s, part in enumerate(parts)]
        )
        (expected * factor).sum().backward()
        torch.testing.assert_close(found, expected)
        for tensor, reference in zip(stack.tensors, own, strict=True):
            torch.testing.assert_close(tensor.grad, reference.grad)
    assert rows.grad is not None
    assert rows.grad.abs().sum() > 0


def test_a_swapped_slice_is_noticed() -> None:
    """Control: the comparison above fails where one site's records meet another's weight."""
    layer = nn.Linear(IN, OUT, bias=False)
    rows = torch.randn(4, IN)
    with stacked(layer, [layer.weight], sites=2) as stack:
        stirred(stack.tensors, 1)
        stack.seating.sites, stack.seating.counts = (1, 0), (2, 2)

        swapped = layer(rows)

        right = torch.cat([rows[:2] @ stack.tensors[0][0].T, rows[2:] @ stack.tensors[0][1].T])
        assert not torch.allclose(swapped, right, atol=0.1)


def test_the_model_is_as_before_the_block() -> None:
    """Class, attributes, and the weight that all sites began with; also after an error."""
    layer = nn.Linear(IN, OUT)
    before = layer.weight.detach().clone()

    def broken_off() -> None:
        with stacked(layer, [layer.weight], sites=2) as stack:
            assert isinstance(layer, StackedLinear)
            stirred(stack.tensors, 1)
            raise KeyError

    with pytest.raises(KeyError):
        broken_off()

    assert type(layer) is nn.Linear
    assert torch.equal(layer.weight, before)
    assert not {"seating", "weight_SOI", "bias_SO"} & set(vars(layer))


def test_rows_that_are_not_records_are_refused() -> None:
    """A layer that sees tokens without their records cannot tell the sites apart."""
    layer = nn.Linear(IN, OUT)
    with stacked(layer, [layer.weight], sites=2) as stack:
        stack.seating.sites, stack.seating.counts = (0, 1), (1, 1)

        with pytest.raises(ModelError, match=r"engine\.stacked"):
            layer(torch.randn(6, IN))


@pytest.mark.parametrize("model", [nn.Embedding(4, IN), nn.Conv1d(2, 2, 1)])
def test_a_trained_layer_that_is_not_linear_is_refused(model: nn.Module) -> None:
    """By its name, and before anything was changed."""
    with pytest.raises(ModelError, match=type(model).__name__):
        owners(model, list(model.parameters()))


def test_a_parameter_that_layers_share_is_refused() -> None:
    """Its gradient would come from two places."""
    one, two = nn.Linear(IN, IN), nn.Linear(IN, IN)
    two.weight = one.weight

    with pytest.raises(ModelError, match="share"):
        owners(nn.Sequential(one, two), [one.weight])
