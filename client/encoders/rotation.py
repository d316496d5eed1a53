"""Turn a site's factors towards the global ones before they are averaged, without a change to their product.

Shape letters: P trained parameters, O outputs, I inputs of a layer, r rank.

B·A = (B·Q')·(Q·A) for every rotation Q, so sites that have learned the same may still differ in the factors, and
averages of A and of B then lose what they share. What is turned here was released under the site's noise, if there is
any, so it costs no privacy; and it is turned at the site, so that the sum stays a sum.

Source: FedRot-LoRA 2026 (arXiv 2602.23638): Procrustes (Schoenemann 1966), softened, towards A and B in turn.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from partsong.common.adapters.adapter import AdapterLayout, FloatVec, flatten, unflatten

Mat64 = NDArray[np.float64]


def turned_update(
    update_P: FloatVec, *, adapter_P: FloatVec, layout: AdapterLayout, number: int, how_far: float
) -> FloatVec:
    """Give the update that leads to the turned factors instead.

    Guarantees: the product of each layer is the same up to rounding; with `how_far` 0 the result is the update itself.
    Args:
        update_P: (P,) change of A and B in the round.
        adapter_P: (P,) the global adapter that it began from.
        layout: of the adapter; A and B are trained.
        number: of the round: towards A in odd ones, towards B in even ones.
        how_far: 0 to 1.
    """
    if how_far == 0:
        return update_P
    now = dict(unflatten(adapter_P + update_P, layout.trained))
    before = unflatten(adapter_P, layout.trained)
    for name in [name for name in now if ".lora_A." in name]:
        b_name = name.replace(".lora_A.", ".lora_B.")
        a_rI, b_Or = now[name].astype(np.float64), now[b_name].astype(np.float64)
        if number % 2:
            full_rr = nearest_rotation(before[name].astype(np.float64) @ a_rI.T)
        else:
            full_rr = nearest_rotation(before[b_name].astype(np.float64).T @ b_Or)
        turn_rr = nearest_rotation((1 - how_far) * np.eye(len(full_rr)) + how_far * full_rr)
        now[name], now[b_name] = (turn_rr @ a_rI).astype(np.float32), (b_Or @ turn_rr.T).astype(np.float32)
    return flatten(now, layout.trained) - adapter_P


def nearest_rotation(matrix_rr: Mat64) -> Mat64:
    """Give the rotation that is closest to another matrix; for X·Y', the Q that brings Q·Y closest to X.

    Reflections are left out: half way to one there is no nearest rotation.

    Source: Kabsch 1976.
    """
    left_rr, _, right_rr = np.linalg.svd(matrix_rr)
    left_rr[:, -1] *= np.sign(np.linalg.det(left_rr @ right_rr))
    nearest: Mat64 = left_rr @ right_rr
    return nearest
