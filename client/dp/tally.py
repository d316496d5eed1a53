"""Exact figures about a logical batch, for the site alone.

B records of a physical batch.
"""

from __future__ import annotations

import torch

from partsong.client.dp.settings import LocalStats


class Tally:
    """Sums up physical batches into `LocalStats`. Sums stay on the device until `close`: no waiting in between."""

    def __init__(self, *, clip_norm: float | None) -> None:
        """Start empty. Without a clip nothing counts as clipped."""
        self._clip_norm = clip_norm
        self._records = 0
        self._sums: torch.Tensor | None = None

    def add(self, loss_B: torch.Tensor, norm_B: torch.Tensor, alive_B: torch.Tensor) -> None:
        """Add one physical batch.

        Args:
            loss_B: (B,) float32, detached.
            norm_B: (B,) float32, detached.
            alive_B: (B,) bool, records that counted.
        """
        clip_norm = float("inf") if self._clip_norm is None else self._clip_norm
        zero_B = torch.zeros_like(loss_B)
        sums = torch.stack(
            (
                alive_B.sum().float(),
                torch.where(alive_B, loss_B, zero_B).sum(),
                torch.where(alive_B, norm_B, zero_B).sum(),
                (alive_B & (norm_B > clip_norm)).sum().float(),
            )
        )
        self._records += len(loss_B)
        self._sums = sums if self._sums is None else self._sums + sums

    def close(self) -> LocalStats:
        """Give the figures of the logical batch, and start the next one."""
        alive, loss, norm, clipped = (0.0,) * 4 if self._sums is None else self._sums.tolist()
        records, self._records, self._sums = self._records, 0, None
        return LocalStats(
            records=records,
            nonfinite_records=records - round(alive),
            loss_mean=loss / alive if alive else 0.0,
            norm_mean=norm / alive if alive else 0.0,
            clipped_fraction=clipped / alive if alive else 0.0,
        )
