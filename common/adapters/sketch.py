"""A matrix of low rank seen from both sides: two small matrices that add up as it does, and give it back.

Shape letters: O outputs, I inputs of a layer, s and l widths of the two sketches.

Both are linear, so the sketches of a sum are the sums of the sketches: one sum of a fixed shape is enough, whatever the
ranks of the summands.

Source: Tropp, Yurtsever, Udell & Cevher 2017, "Practical sketching algorithms for low-rank matrix approximation"
(arXiv 1609.00048), equations (2.2) and algorithm 4.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Mat64 = NDArray[np.float64]

RANGE, CORANGE, OMEGA, PSI = "range.weight", "corange.weight", "omega.weight", "psi.weight"
"""Last part of the names of the sketches of a layer, and of the public matrices that they are taken with."""


def corange_width(width: int) -> int:
    """Give l for a width s: twice as much and one more, as the source recommends for matrices without decay."""
    return 2 * width + 1


def sketches(matrix_OI: Mat64, *, omega_sI: Mat64, psi_lO: Mat64) -> tuple[Mat64, Mat64]:
    """Take both sketches, (O, s) and (l, I)."""
    return matrix_OI @ omega_sI.T, psi_lO @ matrix_OI


def from_both(range_Os: Mat64, corange_lI: Mat64, *, psi_lO: Mat64) -> Mat64:
    """Give the matrix back, (O, I).

    Guarantees: exact, up to rounding, where its rank is at most s. Otherwise its error is of the size of what a
        matrix of rank s leaves over.
    """
    basis_Os = np.linalg.qr(range_Os)[0]
    coordinates_sI: Mat64 = np.linalg.lstsq(psi_lO @ basis_Os, corange_lI, rcond=None)[0]
    found_OI: Mat64 = basis_Os @ coordinates_sI
    return found_OI
