"""Sums over units in which each one has a bounded share, released once with Gaussian noise.

Covers: whatever a caller hands in, a unit moves the released vector by at most the clip of the plan, and the released
loss by at most its own; a unit whose values are not finite counts as zero; without noise nothing is released under a
plan with privacy terms.
Does not cover: that a unit is handed in once. The caller draws each unit once (`partsong.client.encoders.evaluation`).

U units of a pass, Q numbers.

Source: Dwork & Roth 2014, appendix A (the Gaussian mechanism on vectors).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from partsong.client.dp.release import noisy
from partsong.common.adapters.adapter import FloatVec
from partsong.common.privacy.terms import DpPlan

Rows = NDArray[np.float64]


class Totals:
    """Adds up rows, one for each unit."""

    def __init__(self, *, size: int, clip_norm: float, loss_clip: float) -> None:
        """Begin at zero.

        Args:
            size: numbers of a row, Q >= 1.
            clip_norm: L2 bound of one unit's row.
            loss_clip: bound of one unit's loss, which is never below 0.
        """
        self._sum_Q, self._loss = np.zeros(size), 0.0
        self._clip_norm, self._loss_clip = clip_norm, loss_clip
        self.nonfinite = 0
        """Units that counted as zero. Local."""

    def add(self, row_UQ: Rows, loss_U: Rows) -> None:
        """Add some units.

        Args:
            row_UQ: (U, Q), of any length; what is longer than the clip is shortened to it.
            loss_U: (U,), of any size; cut to between 0 and its clip.
        """
        alive_U = np.isfinite(row_UQ).all(axis=1) & np.isfinite(loss_U)
        self.nonfinite += int((~alive_U).sum())
        row_UQ, loss_U = row_UQ[alive_U], loss_U[alive_U]
        with np.errstate(over="ignore"):  # a row too long for its norm to be a number is scaled down to nothing
            norm_U = np.linalg.norm(row_UQ, axis=1)
        factor_U = np.minimum(1.0, self._clip_norm / np.maximum(norm_U, np.finfo(float).tiny))
        self._sum_Q += factor_U @ row_UQ
        self._loss += float(loss_U.clip(0.0, self._loss_clip).sum())

    def exact(self) -> tuple[FloatVec, float]:
        """Give the sums as they are: for plans without privacy terms."""
        return self._sum_Q.astype(np.float32), self._loss

    def release(self, dp: DpPlan) -> tuple[FloatVec, float]:
        """Give the sums with noise, from the operating system's randomness; to be called once.

        Args:
            dp: terms of the plan, with the clips of this object.
        """
        if (dp.clip_norm, dp.loss_clip) != (self._clip_norm, self._loss_clip):
            raise AssertionError("one clip for what is summed and what is noised")
        sum_Q = noisy(torch.from_numpy(self._sum_Q), std=dp.noise_multiplier * dp.clip_norm, kind=dp.noise)
        loss_1 = torch.tensor([self._loss], dtype=torch.float64)
        noisy_loss = noisy(loss_1, std=dp.loss_noise_multiplier * dp.loss_clip, kind=dp.noise)
        return sum_Q.numpy().astype(np.float32), float(noisy_loss[0])
