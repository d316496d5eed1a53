"""How much an average of adapters loses against the average of their products, and what would lose less.

Shape letters: S sites, O outputs, I inputs of a layer, r rank, s width of a sketch.

Errors are Frobenius norms over that of the exact mean product. All of it needs every site's factors in the clear, so
it is for simulations and tests; a coordinator of masked sums cannot compute it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from partsong.common.adapters.lora import Mat64, Tensors, as_lora, products, truncated

_A, _B = ".lora_A.weight", ".lora_B.weight"


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerError:
    """What averaging did to one layer."""

    layer: str
    fedit: float
    """Of the product of the two averages."""
    best: float
    """Of the best matrix of the adapter's rank: no method of that rank does better."""
    ours: float
    """Of the adapter that the round ended with."""


def layer_errors(sites: Sequence[Tensors], ended: Tensors) -> tuple[LayerError, ...]:
    """Compare what a round ended with, layer by layer, with the mean of the sites' products.

    Args:
        sites: the adapter of each site as it was after its training, all tensors.
        ended: the global adapter after the round, all tensors.
    """
    each = [products(tensors) for tensors in sites]
    plain, ours = [as_lora(tensors) for tensors in sites], products(ended)
    errors = []
    for layer, ours_OI in ours.items():
        exact_OI = np.mean([site[layer] for site in each], axis=0)
        b_Or, a_rI = (np.mean([site[layer + end].astype(np.float64) for site in plain], axis=0) for end in (_B, _A))
        left_Or, right_rI = truncated(exact_OI, rank=a_rI.shape[0])
        errors.append(
            LayerError(
                layer=layer,
                fedit=relative(b_Or @ a_rI, exact_OI),
                best=relative(left_Or @ right_rI, exact_OI),
                ours=relative(ours_OI, exact_OI),
            )
        )
    return tuple(errors)


def relative(found_OI: Mat64, exact_OI: Mat64) -> float:
    """Give the distance between two matrices over the length of the exact one; 0 where both are 0."""
    distance, length = float(np.linalg.norm(found_OI - exact_OI)), float(np.linalg.norm(exact_OI))
    return distance / length if length else float(distance > 0)


def first_sketch(b_Or: Mat64, a_rI: Mat64, omega_Is: Mat64) -> Mat64:
    """Give a site's summand of the first sum, (O, s): its product seen through a public random matrix."""
    return b_Or @ (a_rI @ omega_Is)


def range_of(sum_Os: Mat64) -> Mat64:
    """Give the public orthonormal basis (O, s) that the second stage is asked with."""
    return np.linalg.qr(sum_Os)[0]


def second_sketch(b_Or: Mat64, a_rI: Mat64, basis_Os: Mat64) -> Mat64:
    """Give a site's summand of the second sum, (s, I): its product seen from that basis."""
    return (basis_Os.T @ b_Or) @ a_rI


def from_sketches(basis_Os: Mat64, sum_sI: Mat64, *, sites: int, rank: int) -> tuple[Mat64, Mat64]:
    """Give the factors of the mean product after two sums that depend on each other.

    Guarantees: exact, up to rounding, where `s` is at least the rank of the sum of products (at most all sites' ranks
        together) and `rank` is no less. A narrower sketch can be worse than two separate averages.
    Args:
        basis_Os: of the first sum.
        sum_sI: the second sum.
        sites: summands.
        rank: of the result.
    Source: FedASK 2025 (arXiv 2507.09990); Halko, Martinsson & Tropp 2011, section 1.
    """
    left_sr, right_rI = truncated(sum_sI / sites, rank=rank)
    return basis_Os @ left_sr, right_rI
