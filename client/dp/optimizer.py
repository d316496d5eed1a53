"""The mechanism itself: a running sum of clipped gradients and losses, noised once when it is released.

B records of a physical batch, P trainable parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from opacus.optimizers import DPOptimizer

from partsong.client.dp.clipping import clip_weights
from partsong.client.dp.gradients import PerRecordGradients
from partsong.client.dp.release import noisy
from partsong.client.dp.settings import DpSettings
from partsong.common.errors import Refused


class ReleasingOptimizer(DPOptimizer):  # type: ignore[misc]  # opacus ships no types
    """Opacus' optimizer with gradients from a `PerRecordGradients` and noise from the operating system.

    Its `noise_multiplier`, which the accountant's step hook reads, is that of the whole step: gradients and loss.

    Guarantees:
        - removing one record from the logical batch moves the gradient sum by at most `clip_norm` in L2 norm and
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

    @property
    def accumulated_iterations(self) -> int:
        """One: a logical batch is one sample, however many physical batches it took."""
        return 1

    def clip_and_accumulate(self, loss_B: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Add the pass that `gradients` holds to the running sums; all of it or, if this raises, nothing.

        Args:
            loss_B: (B,) detached losses.
        Returns:
            Each record's gradient norm, and whether it counted, both (B,).
        """
        clip = self._settings.loss_clip
        norm_B = self._gradients.norms()
        alive_B = norm_B.isfinite() & loss_B.isfinite()
        norm_B = torch.where(alive_B, norm_B, torch.full_like(norm_B, torch.inf))
        weight_B = clip_weights(norm_B, clip_norm=self._settings.clip_norm, clipping=self._settings.clipping)
        clipped_P = self._gradients.weighted_sum(weight_B)
        losses = float(torch.where(alive_B, loss_B, torch.zeros_like(loss_B)).clamp(0.0, clip).cpu().double().sum())
        self.sum_P.add_(clipped_P)
        self.loss_sum += losses
        return norm_B, alive_B

    def add_noise(self) -> None:
        """Release: noise on both sums, into each `p.grad` and `released_loss`; the sums begin anew.

        Raises:
            Refused: `gradient_past_clipping`, if something else has written a gradient; nothing was released.
        """
        if any(p.grad is not None for p in self.params):
            raise Refused(
                "gradient_past_clipping",
                reason="a parameter holds a gradient that was not clipped",
                remedy="let accumulate() alone call backward()",
            )
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
