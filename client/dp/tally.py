"""Exact figures about a logical batch, for the site alone.

U units (records or patients) of a physical batch.
"""

from __future__ import annotations

import torch

from partsong.client.dp.settings import LocalStats


class Tally:
    """Sums up physical batches into `LocalStats`. Sums stay on the device until `close`: no waiting in between."""

    def __init__(self, *, clip_norm: float | None) -> None:
        """Start empty. Without a clip nothing counts as clipped."""
        self._clip_norm = clip_norm
        self._units = 0
        self._sums: torch.Tensor | None = None

    def add(self, loss_U: torch.Tensor, norm_U: torch.Tensor, alive_U: torch.Tensor) -> None:
        """Add one physical batch.

        Args:
            loss_U: (U,) float32, detached.
            norm_U: (U,) float32, detached.
            alive_U: (U,) bool, units that counted.
        """
        clip_norm = float("inf") if self._clip_norm is None else self._clip_norm
        zero_U = torch.zeros_like(loss_U)
        sums = torch.stack(
            (
                alive_U.sum().float(),
                torch.where(alive_U, loss_U, zero_U).sum(),
                torch.where(alive_U, norm_U, zero_U).sum(),
                (alive_U & (norm_U > clip_norm)).sum().float(),
            )
        )
        self._units += len(loss_U)
        self._sums = sums if self._sums is None else self._sums + sums

    def close(self) -> LocalStats:
        """Give the figures of the logical batch, and start the next one."""
        alive, loss, norm, clipped = (0.0,) * 4 if self._sums is None else self._sums.tolist()
        units, self._units, self._sums = self._units, 0, None
        return LocalStats(
            units=units,
            nonfinite_units=units - round(alive),
            loss_mean=loss / alive if alive else 0.0,
            norm_mean=norm / alive if alive else 0.0,
            clipped_fraction=clipped / alive if alive else 0.0,
        )
