"""Other forms of an adapter, written as A and B."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partsong.common.adapters.lora import as_lora, is_plain, product, products


def drawn(seed: int, **shapes: tuple[int, int]) -> dict[str, np.ndarray]:
    """Random float32 tensors of one layer `q`, named by what stands behind `q.lora_`."""
    rng = np.random.default_rng(seed)
    return {
        f"q.lora_{name.replace('_', '.')}.weight": rng.standard_normal(shape).astype(np.float32)
        for name, shape in shapes.items()
    }


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(1, 5), st.integers(1, 9))
def test_a_product_agrees_with_blas(seed: int, outputs: int, rank: int, inputs: int) -> None:
    """A second source, to rounding."""
    rng = np.random.default_rng(seed)
    left, right = rng.standard_normal((outputs, rank)), rng.standard_normal((rank, inputs))

    assert product(left, right) == pytest.approx(left @ right, rel=1e-12, abs=1e-12)


def test_plain_tensors_stay_as_they_are() -> None:
    """The very same arrays, a head among them."""
    tensors = drawn(0, A=(2, 5), B=(3, 2)) | {"score.weight": np.ones((2, 3), np.float32)}

    assert is_plain(tensors)
    assert all(as_lora(tensors)[name] is value for name, value in tensors.items())
    assert products(tensors).keys() == {"q"}


@pytest.mark.parametrize(
    "shapes",
    [{"A": (2, 5), "B_core": (2, 2), "B_basis": (3, 2)}, {"A": (6, 5), "B_blocks_0": (3, 3), "B_blocks_1": (3, 3)}],
    ids=["core", "blocks"],
)
def test_another_form_has_the_same_product(shapes: dict[str, tuple[int, int]]) -> None:
    """Written as A and B it is what PEFT loads, and multiplies to the same matrix in float32."""
    tensors = drawn(1, **shapes)

    plain = as_lora(tensors)

    assert not is_plain(tensors)
    assert is_plain(plain)
    assert set(plain) == {"q.lora_A.weight", "q.lora_B.weight"}
    assert products(plain)["q"] == pytest.approx(products(tensors)["q"], rel=1e-5, abs=1e-5)


def test_blocks_are_ordered_by_number() -> None:
    """Block 10 stands behind block 2, whatever the order of the names."""
    shapes = {f"B_blocks_{number}": (1, 1) for number in range(11)}
    tensors = drawn(2, A=(11, 4), **shapes)
    shuffled = dict(sorted(tensors.items(), reverse=True))

    b_Or = as_lora(shuffled)["q.lora_B.weight"]

    assert b_Or.ravel().tolist() == [float(tensors[f"q.lora_B.blocks.{n}.weight"][0, 0]) for n in range(11)]
