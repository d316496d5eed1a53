"""Factors are turned towards the global ones; their product stays."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import special_ortho_group

from partsong.client.encoders.rotation import nearest_rotation, turned_update
from partsong.common.adapters.adapter import AdapterLayout, TensorSpec, flatten, unflatten
from partsong.common.adapters.aggregation import layer_errors
from partsong.common.adapters.lora import products

LAYOUT = AdapterLayout(
    tensors=(
        TensorSpec(name="q.lora_A.weight", shape=(4, 12), trained=True),
        TensorSpec(name="q.lora_B.weight", shape=(10, 4), trained=True),
        TensorSpec(name="score.weight", shape=(2, 3), trained=True),
    )
)


def drawn(seed: int) -> np.ndarray:
    """An adapter of random numbers."""
    return np.random.default_rng(seed).standard_normal(94).astype(np.float32)


def turned(before_P: np.ndarray, after_P: np.ndarray, *, number: int, how_far: float) -> np.ndarray:
    """The adapter that a site leads to after it has turned its factors."""
    update_P = turned_update(after_P - before_P, adapter_P=before_P, layout=LAYOUT, number=number, how_far=how_far)
    return before_P + update_P


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 2), st.floats(0, 1))
def test_the_product_and_what_is_not_lora_stay(seed: int, number: int, how_far: float) -> None:
    """Whatever the two adapters and however far: the same matrix, and the same head bit by bit."""
    before_P, after_P = drawn(seed), drawn(seed + 1)

    ended = unflatten(turned(before_P, after_P, number=number, how_far=how_far), LAYOUT.trained)

    trained = unflatten(after_P, LAYOUT.trained)
    assert products(ended)["q"] == pytest.approx(products(trained)["q"], abs=1e-4)
    assert ended["score.weight"] == pytest.approx(trained["score.weight"], abs=1e-6)


@pytest.mark.parametrize(("number", "name"), [(1, "q.lora_A.weight"), (2, "q.lora_B.weight")])
def test_a_turned_copy_is_turned_back(number: int, name: str) -> None:
    """Factors that differ from the global ones by a rotation alone come back to them; half way, half as far or less."""
    before_P, rotation_rr = drawn(5), special_ortho_group.rvs(4, random_state=1)
    before = unflatten(before_P, LAYOUT.trained)
    spun = dict(before)
    spun["q.lora_A.weight"] = (rotation_rr @ before["q.lora_A.weight"]).astype(np.float32)
    spun["q.lora_B.weight"] = (before["q.lora_B.weight"] @ rotation_rr.T).astype(np.float32)
    after_P = flatten(spun, LAYOUT.trained)

    full_P = turned(before_P, after_P, number=number, how_far=1.0)
    half = unflatten(turned(before_P, after_P, number=number, how_far=0.5), LAYOUT.trained)

    assert full_P == pytest.approx(before_P, abs=1e-4)
    assert np.linalg.norm(half[name] - before[name]) < np.linalg.norm(spun[name] - before[name])


def test_averages_of_turned_factors_lose_less() -> None:
    """Eight sites that learned nearly the same in turned coordinates: the error of two averages falls by 20 or more."""
    before_P, rng = drawn(7), np.random.default_rng(8)
    sites = []
    for number in range(8):
        tensors = dict(unflatten(before_P + 0.05 * drawn(100 + number), LAYOUT.trained))
        rotation_rr = nearest_rotation(np.eye(4) + 0.4 * rng.standard_normal((4, 4)))
        tensors["q.lora_A.weight"] = (rotation_rr @ tensors["q.lora_A.weight"]).astype(np.float32)
        tensors["q.lora_B.weight"] = (tensors["q.lora_B.weight"] @ rotation_rr.T).astype(np.float32)
        sites.append(flatten(tensors, LAYOUT.trained))

    errors = {}
    for how_far in (0.0, 0.5, 1.0):
        ended = [turned(before_P, site_P, number=1, how_far=how_far) for site_P in sites]
        mean_P = np.mean(ended, axis=0, dtype=np.float64).astype(np.float32)
        (error,) = layer_errors(
            [unflatten(site_P, LAYOUT.trained) for site_P in ended], unflatten(mean_P, LAYOUT.trained)
        )
        errors[how_far] = error.ours

    assert errors[0.0] > 20 * errors[1.0]
    assert errors[0.0] > errors[0.5] > errors[1.0] > 1e-5


def test_without_a_way_to_go_the_update_is_the_same_array() -> None:
    """That is FedIT."""
    update_P = drawn(1)

    assert turned_update(update_P, adapter_P=drawn(2), layout=LAYOUT, number=1, how_far=0.0) is update_P
