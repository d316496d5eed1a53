"""What averaging loses, and the arithmetic for sites of different ranks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partsong.common.adapters.aggregation import (
    first_sketch,
    from_sketches,
    layer_errors,
    range_of,
    relative,
    second_sketch,
)
from partsong.common.adapters.lora import truncated

Factors = tuple[np.ndarray, np.ndarray]


def factors(seed: int, *ranks: int, outputs: int = 40, inputs: int = 50) -> list[Factors]:
    """B and A of sites of these ranks."""
    rng = np.random.default_rng(seed)
    return [(rng.standard_normal((outputs, r)), rng.standard_normal((r, inputs))) for r in ranks]


def sketched(sites: list[Factors], *, width: int, rank: int) -> np.ndarray:
    """The mean product by two sums of fixed shapes."""
    omega_Is = np.random.default_rng(7).standard_normal((sites[0][1].shape[1], width))
    basis_Os = range_of(np.sum([first_sketch(b, a, omega_Is) for b, a in sites], axis=0))
    sum_sI = np.sum([second_sketch(b, a, basis_Os) for b, a in sites], axis=0)
    left_Or, right_rI = from_sketches(basis_Os, sum_sI, sites=len(sites), rank=rank)
    return left_Or @ right_rI


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_a_double_sketch_as_wide_as_all_ranks_together_is_exact(seed: int) -> None:
    """Five sites of rank 2 with s = K r = 10: the mean product to rounding; with s = 9 it is not."""
    sites = factors(seed, 2, 2, 2, 2, 2)
    exact_OI = np.mean([b @ a for b, a in sites], axis=0)

    assert relative(sketched(sites, width=10, rank=10), exact_OI) < 1e-9
    assert relative(sketched(sites, width=9, rank=9), exact_OI) > 1e-3


def test_sites_of_different_ranks_share_a_double_sketch() -> None:
    """Ranks 1, 2 and 4 give summands of one shape, and 7 columns suffice."""
    sites = factors(3, 1, 2, 4)

    assert relative(sketched(sites, width=7, rank=7), np.mean([b @ a for b, a in sites], axis=0)) < 1e-9


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6))
def test_a_truncated_dense_mean_is_the_best_of_its_rank(seed: int, rank: int) -> None:
    """Its error is the tail of the singular values, and no random competitor of that rank comes closer."""
    mean_OI = np.mean([b @ a for b, a in factors(seed, 2, 4, 2)], axis=0)
    tail = np.linalg.svd(mean_OI, compute_uv=False)[rank:]

    left_Or, right_rI = truncated(mean_OI, rank=rank)

    assert np.linalg.norm(left_Or @ right_rI - mean_OI) == pytest.approx(np.linalg.norm(tail), rel=1e-9)
    assert right_rI @ right_rI.T == pytest.approx(np.eye(rank), abs=1e-12)
    other = np.random.default_rng(seed).standard_normal((mean_OI.shape[1], rank))
    best_from_other = mean_OI @ np.linalg.pinv(other).T @ other.T
    assert np.linalg.norm(best_from_other - mean_OI) >= np.linalg.norm(tail) * (1 - 1e-9)


def adapter(b_Or: np.ndarray, a_rI: np.ndarray) -> dict[str, np.ndarray]:
    return {"q.lora_A.weight": a_rI.astype(np.float32), "q.lora_B.weight": b_Or.astype(np.float32)}


def test_the_errors_of_two_sites_by_hand() -> None:
    """B·A is e1e1' at one site and e2e2' at the other: the mean has two values of 1/2, the averages give 1/4 everywhere.

    The best matrix of rank 1 keeps one of the two: it is off by 1 / sqrt(2). So is the product of the averages, whose
    distance is four entries of 1/4.
    """
    one, two = np.array([[1.0], [0.0]]), np.array([[0.0], [1.0]])
    sites = [adapter(one, one.T), adapter(two, two.T)]

    (error,) = layer_errors(sites, sites[0])

    assert (error.layer, error.fedit, error.best) == ("q", pytest.approx(0.5**0.5), pytest.approx(0.5**0.5))
    assert error.ours == pytest.approx(1.0)


def test_where_a_is_shared_nothing_is_lost() -> None:
    """All three errors vanish when the adapter ends with the mean of B."""
    a_rI = np.random.default_rng(0).standard_normal((2, 6))
    sites = [adapter(b, a_rI) for b, _ in factors(1, 2, 2, 2, outputs=5)]
    mean_B = np.mean([site["q.lora_B.weight"].astype(np.float64) for site in sites], axis=0)

    (error,) = layer_errors(sites, adapter(mean_B, a_rI))

    assert max(error.fedit, error.best, error.ours) < 1e-6


def test_an_error_of_nothing_is_none() -> None:
    """Before anything is trained every product is 0."""
    assert relative(np.zeros((2, 2)), np.zeros((2, 2))) == 0.0
    assert relative(np.ones((2, 2)), np.zeros((2, 2))) == 1.0
