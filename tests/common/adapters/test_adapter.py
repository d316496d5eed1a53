"""The adapter as named tensors and as one vector."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partsong.common.adapters.adapter import AdapterLayout, TensorSpec, digest, flatten, unflatten
from partsong.common.errors import WireError

A = TensorSpec(name="a", shape=(2, 3), trained=False)
B = TensorSpec(name="b", shape=(2, 2), trained=True)
C = TensorSpec(name="c", shape=(3,), trained=True)
LAYOUT = AdapterLayout(tensors=(A, B, C))


def test_a_vector_is_the_rows_of_its_tensors_in_layout_order() -> None:
    """Worked by hand: b row by row, then c, whatever the order of the mapping."""
    tensors = {"c": np.array([5, 6, 7], np.float32), "b": np.array([[1, 2], [3, 4]], np.float32)}

    vector = flatten(tensors, LAYOUT.trained)

    assert vector.tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert unflatten(vector, LAYOUT.trained)["b"].tolist() == [[1, 2], [3, 4]]
    assert (LAYOUT.size(trained=True), LAYOUT.size(trained=False)) == (7, 6)


def test_a_transposed_tensor_is_flattened_by_its_own_rows() -> None:
    """Memory order does not matter, only rows and columns; in column order the vector would be another."""
    transposed = np.array([[1, 3], [2, 4]], np.float32).T
    assert not transposed.flags.c_contiguous

    assert flatten({"b": transposed}, (B,)).tolist() == [1, 2, 3, 4]
    assert transposed.ravel(order="K").tolist() == [1, 3, 2, 4]


SHAPES = st.lists(st.lists(st.integers(1, 4), max_size=3), max_size=5)


@settings(max_examples=60, deadline=None)
@given(SHAPES, st.integers(0, 2**32 - 1))
def test_cutting_a_vector_and_joining_it_gives_it_back(shapes: list[list[int]], seed: int) -> None:
    """`unflatten` and `flatten` are inverses for every layout, scalars and no tensors included."""
    specs = tuple(TensorSpec(name=str(i), shape=tuple(s), trained=True) for i, s in enumerate(shapes))
    vector = np.random.default_rng(seed).standard_normal(sum(s.size for s in specs)).astype(np.float32)

    tensors = unflatten(vector, specs)

    assert [t.shape for t in tensors.values()] == [s.shape for s in specs]
    assert flatten(tensors, specs).tobytes() == vector.tobytes()


@pytest.mark.parametrize("size", [0, 6, 8])
def test_a_vector_of_another_length_is_refused(size: int) -> None:
    """One entry more or less is another adapter."""
    with pytest.raises(WireError, match=rf"found shape \({size},\), expected \(7,\)"):
        unflatten(np.zeros(size, np.float32), LAYOUT.trained)


@pytest.mark.parametrize(
    ("value", "found"),
    [(None, "nothing"), (np.zeros((2, 3), np.float32), r"shape \(2, 3\)"), (np.zeros(4, np.float32), r"shape \(4,\)")],
)
def test_a_missing_or_misshapen_tensor_is_refused_by_name(value: np.ndarray | None, found: str) -> None:
    """The right number of entries in another shape is refused as well."""
    tensors = {} if value is None else {"b": value}

    with pytest.raises(WireError, match=f"adapter tensor b: found {found}"):
        flatten(tensors, (B,))


def test_layouts_with_a_name_twice_or_an_empty_side_are_refused() -> None:
    """A name stands for one tensor, and a tensor has entries."""
    with pytest.raises(ValueError, match="without repeats"):
        AdapterLayout(tensors=(B, B))
    for side in (0, -1):
        with pytest.raises(ValueError, match="positive sides"):
            AdapterLayout(tensors=(TensorSpec(name="x", shape=(2, side), trained=True),))


def test_a_digest_is_that_of_the_little_endian_bytes() -> None:
    """One and minus two as published by IEEE 754; another entry gives another digest."""
    expected = hashlib.sha256(bytes.fromhex("0000803f000000c0")).hexdigest()

    assert digest(np.array([1, -2], np.float32)) == expected
    assert digest(np.array([1, -2], ">f4")) == expected
    assert digest(np.array([1, 2], np.float32)) != expected
