"""The mechanism itself: a running sum of clipped gradients and losses, noised once when it is released.

A unit is a record or a patient. B records and U units of a physical batch, P trainable parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from opacus.optimizers import DPOptimizer

from partsong.client.dp.clipping import clip_weights
from partsong.client.dp.gradients import PerRecordGradients
from partsong.client.dp.release import noisy
from partsong.client.dp.settings import DpSettings
from partsong.client.dp.units import OpenUnit, Segments, require_units, spans_of
from partsong.common.errors import Refused


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Added:
    """What was added to the running sums; exact, for the site alone."""

    loss_U: torch.Tensor
    """(U,) float32."""
    norm_U: torch.Tensor
    """(U,) float32, infinite for a unit that did not count."""
    alive_U: torch.Tensor
    """(U,) bool, units that counted."""


class ReleasingOptimizer(DPOptimizer):  # type: ignore[misc]  # opacus ships no types
    """Opacus' optimizer with gradients from a `PerRecordGradients` and noise from the operating system.

    Its `noise_multiplier`, which the accountant's step hook reads, is that of the whole step: gradients and loss.

    Guarantees:
        - removing one unit from the logical batch moves the gradient sum by at most `clip_norm` in L2 norm and
          the loss sum by at most `loss_clip`, float32 rounding of the sums apart;
        - noise is added exactly once per release, in float64 or on integers, and the result is rounded once to
          float32;
        - the accountant's hook runs before the weights change.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, *, settings: DpSettings, gradients: PerRecordGradients
    ) -> None:
        """Wrap a torch optimizer whose parameters `gradients` covers."""
        size = sum(p.numel() for group in optimizer.param_groups for p in group["params"])
        super().__init__(
            optimizer,
            noise_multiplier=settings.step_multiplier(size=size),
            max_grad_norm=settings.clip_norm,
            expected_batch_size=settings.expected_batch,
            loss_reduction="mean",
        )
        self._settings, self._gradients = settings, gradients
        self.sum_P = torch.zeros(size, dtype=torch.float32, device=self.params[0].device)
        self.loss_sum = 0.0
        self.released_loss = 0.0
        self._open: OpenUnit | None = None

    @property
    def accumulated_iterations(self) -> int:
        """One: a logical batch is one sample, however many physical batches it took."""
        return 1

    def clip_and_accumulate(self, loss_B: torch.Tensor, unit_B: Sequence[int] | None = None) -> list[Added]:
        """Add the pass that `gradients` holds to the running sums; all of it or, if this raises, nothing.

        The last unit of a pass stays open, because the next pass may hold more of it: it is added then, or at the end
        of the logical batch.

        Args:
            loss_B: (B,) detached losses.
            unit_B: number of each record's unit, as in `Stepper.accumulate`.
        Raises:
            Refused: `units_unknown`, `unit_comes_back`.
        """
        require_units(unit_B, patients=self._settings.unit == "patient", records=len(loss_B))
        if unit_B is None:
            added, clipped_P, losses = self._clipped(loss_B, self._gradients.norms())
            self._add(clipped_P, losses)
            return [added]
        return self._accumulate_units(loss_B, unit_B)

    def close_unit(self) -> list[Added]:
        """Add the unit that is still open, if there is one: it is complete."""
        if self._open is None:
            return []
        added, clipped_P, losses = self._clipped_open(self._open)
        self._add(clipped_P, losses)
        self._open = None
        return [added]

    def _accumulate_units(self, loss_B: torch.Tensor, unit_B: Sequence[int]) -> list[Added]:
        before = self._open
        spans = spans_of(unit_B, after=None if before is None else before.number)
        joined = before if before is not None and before.number == unit_B[0] else None
        norm_U = self._gradients.norms(Segments(spans=spans, carry_P=None if joined is None else joined.gradient_P))
        loss_U = torch.stack([loss_B[first:behind].sum() for first, behind in spans])
        if joined is not None:
            loss_U[0] += joined.loss_1[0]
        still_open = OpenUnit(
            number=unit_B[-1], gradient_P=self._gradients.row(len(spans) - 1), loss_1=loss_U[-1:].clone()
        )
        added, clipped_P, losses = self._clipped(loss_U, norm_U, complete=len(spans) - 1)
        finished = [] if joined is not None else self.close_unit()
        self._add(clipped_P, losses)
        self._open = still_open
        return [*finished, added]

    def _clipped(
        self, loss_U: torch.Tensor, norm_U: torch.Tensor, *, complete: int | None = None
    ) -> tuple[Added, torch.Tensor, float]:
        """Clip the first `complete` units of the pass, all if left out: what each was, and both sums."""
        added = self._added(loss_U[:complete], norm_U[:complete])
        weight_U = torch.zeros_like(norm_U)
        weight_U[:complete] = self._weights(added)
        return added, self._gradients.weighted_sum(weight_U), self._losses(added)

    def _clipped_open(self, unit: OpenUnit) -> tuple[Added, torch.Tensor, float]:
        added = self._added(unit.loss_1, torch.linalg.vector_norm(unit.gradient_P)[None])
        weight = self._weights(added)
        clipped_P = unit.gradient_P * weight if weight else torch.zeros_like(unit.gradient_P)
        return added, clipped_P, self._losses(added)

    def _added(self, loss_U: torch.Tensor, norm_U: torch.Tensor) -> Added:
        alive_U = norm_U.isfinite() & loss_U.isfinite()
        return Added(
            loss_U=loss_U, norm_U=torch.where(alive_U, norm_U, torch.full_like(norm_U, torch.inf)), alive_U=alive_U
        )

    def _weights(self, added: Added) -> torch.Tensor:
        chosen = self._settings
        return clip_weights(added.norm_U, clip_norm=chosen.clip_norm, clipping=chosen.clipping)

    def _losses(self, added: Added) -> float:
        loss_U = torch.where(added.alive_U, added.loss_U, torch.zeros_like(added.loss_U))
        return float(loss_U.clamp(0.0, self._settings.loss_clip).cpu().double().sum())

    def _add(self, clipped_P: torch.Tensor, losses: float) -> None:
        self.sum_P.add_(clipped_P)
        self.loss_sum += losses

    def add_noise(self) -> None:
        """Release: noise on both sums, into each `p.grad` and `released_loss`; the sums begin anew.

        Units are complete by now: the caller has called `close_unit`.

        Raises:
            Refused: `gradient_past_clipping`, if something else has written a gradient; nothing was released.
        """
        if any(p.grad is not None for p in self.params):
            raise Refused(
                "gradient_past_clipping",
                reason="a parameter holds a gradient that was not clipped",
                remedy="let accumulate() alone call backward()",
            )
        if self._open is not None:
            raise AssertionError("step() closes the last unit before it releases")
        chosen = self._settings
        std_P, std_loss = chosen.noise_multiplier * chosen.clip_norm, chosen.loss_noise_multiplier * chosen.loss_clip
        noisy_P = noisy(self.sum_P.cpu().double(), std=std_P, kind=chosen.noise).float().to(self.sum_P.device)
        loss_1 = torch.tensor([self.loss_sum], dtype=torch.float64)
        self.released_loss = float(noisy(loss_1, std=std_loss, kind=chosen.noise).float())
        start = 0
        for parameter in self.params:
            parameter.grad = noisy_P[start : start + parameter.numel()].view_as(parameter)
            start += parameter.numel()
        self.sum_P.zero_()
        self.loss_sum = 0.0

    def take_sums(self) -> tuple[torch.Tensor, float]:
        """Give both sums as they are, without noise, and begin anew. Units are complete, as for `add_noise`."""
        if self._open is not None:
            raise AssertionError("the caller has closed the last unit")
        sums = self.sum_P.cpu().clone(), self.loss_sum
        self.sum_P.zero_()
        self.loss_sum = 0.0
        return sums

    def pre_step(self, closure: Callable[[], float] | None = None) -> bool:  # noqa: ARG002 - Opacus' signature
        """Release, divide by the expected batch, account; Opacus then steps the wrapped optimizer."""
        self.add_noise()
        self.scale_grad()
        if self.step_hook is not None:
            self.step_hook(self)
        return True

    def zero_grad(self, set_to_none: bool = True) -> None:  # noqa: FBT001, FBT002 - torch's signature
        """Clear `p.grad`; the running sums stay."""
        self.original_optimizer.zero_grad(set_to_none)

    def detach(self) -> None:
        """Take Opacus' attribute off the parameters."""
        for parameter in self.params:
            opacus: Any = parameter
            del opacus.summed_grad
