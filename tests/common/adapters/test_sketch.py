"""Two sketches in one sum: exact where they are wide enough, and how far off where they are not."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partsong.common.adapters.aggregation import relative
from partsong.common.adapters.sketch import corange_width, from_both, sketches

OUTPUTS, INPUTS = 40, 50


def products(seed: int, *ranks: int) -> list[np.ndarray]:
    """Of sites of these ranks."""
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((OUTPUTS, r)) @ rng.standard_normal((r, INPUTS)) for r in ranks]


def through(sites: list[np.ndarray], *, width: int) -> np.ndarray:
    """The mean product from the mean of the sites' sketches."""
    rng = np.random.default_rng(7)
    omega, psi = rng.standard_normal((width, INPUTS)), rng.standard_normal((corange_width(width), OUTPUTS))
    seen = [sketches(one, omega_sI=omega, psi_lO=psi) for one in sites]
    return from_both(np.mean([y for y, _ in seen], axis=0), np.mean([w for _, w in seen], axis=0), psi_lO=psi)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_sketches_as_wide_as_all_ranks_together_are_exact(seed: int) -> None:
    """Five sites of rank 2 with s = K r = 10: the mean product to rounding; with s = 9 it is not."""
    sites = products(seed, 2, 2, 2, 2, 2)
    exact_OI = np.mean(sites, axis=0)

    assert relative(through(sites, width=10), exact_OI) < 1e-9
    assert relative(through(sites, width=9), exact_OI) > 1e-3


def test_ranks_1_2_and_4_need_7_columns() -> None:
    """Whatever the ranks are one by one."""
    sites = products(3, 1, 2, 4)

    assert relative(through(sites, width=7), np.mean(sites, axis=0)) < 1e-9
    assert relative(through(sites, width=6), np.mean(sites, axis=0)) > 1e-3


def test_wider_than_needed_is_exact_too_and_nothing_stays_nothing() -> None:
    """Directions that nobody uses, down to a product of 0."""
    sites = products(4, 1, 1)

    assert relative(through(sites, width=9), np.mean(sites, axis=0)) < 1e-9
    assert not through([np.zeros((OUTPUTS, INPUTS))], width=3).any()


def test_what_a_narrow_sketch_loses_is_of_the_size_of_the_tail() -> None:
    """Values that fall by a half: within 10 times of the best matrix of that rank, and never below it."""
    rng = np.random.default_rng(5)
    left, right = (np.linalg.qr(rng.standard_normal((n, 20)))[0] for n in (OUTPUTS, INPUTS))
    whole = left * 0.5 ** np.arange(20) @ right.T
    tail = np.linalg.norm(0.5 ** np.arange(8, 20))

    error = np.linalg.norm(through([whole], width=8) - whole)

    assert tail * (1 - 1e-9) <= error < 10 * tail
    assert error == pytest.approx(np.linalg.norm(through([whole, whole], width=8) - whole))
