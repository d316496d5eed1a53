"""Optimizer steps on losses per record: with differential privacy, or plainly without.

A unit is a record, or a patient with all records of the sample. B records of a physical batch, P trainable parameters.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import nn

from partsong.client.dp.accountant import make_accountant
from partsong.client.dp.gradients import HookGradients, PerRecordGradients
from partsong.client.dp.guards import (
    require_clippable,
    require_loss_per_record,
    require_same_parameters,
    require_train_mode,
)
from partsong.client.dp.linear_gradients import BUFFER_LIMIT_BYTES, LinearGradients
from partsong.client.dp.optimizer import Added, ReleasingOptimizer
from partsong.client.dp.settings import ClippedSums, DpSettings, Stepper, StepResult
from partsong.client.dp.tally import Tally
from partsong.client.dp.units import require_units
from partsong.common.errors import Refused
from partsong.common.privacy.accounting import StepEvents

__all__ = ["DpSettings", "StepResult", "Stepper", "Summing", "plain_stepper", "private_stepper", "summing"]


def private_stepper(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    settings: DpSettings,
    *,
    events: tuple[StepEvents, ...] = (),
    buffer_limit_bytes: int = BUFFER_LIMIT_BYTES,
) -> Stepper:
    """Attach differentially private steps to a model.

    Guarantees: `Stepper`'s and `ReleasingOptimizer`'s; what `events` lists is what was released.
    Args:
        model: on its device, adapter attached, in train mode; losses must be per record.
        optimizer: over exactly the trainable parameters.
        settings: clips, noise and sampling.
        events: of the steps that the same round has taken before, in another process; counted here, not repeated.
        buffer_limit_bytes: flat engine: a larger buffer of gradients is replaced by book-keeping.
    Raises:
        Refused: the model or optimizer does not allow it, or `other_events`: the steps before had other noise; the
            model is as before.
    """
    gradients = _gradients(model, optimizer, settings, buffer_limit_bytes=buffer_limit_bytes)
    stepper = _PrivateStepper(model, optimizer, settings, gradients)
    try:
        stepper.count(events)
    except Refused:
        stepper.close()
        raise
    return stepper


def summing(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    settings: DpSettings,
    *,
    buffer_limit_bytes: int = BUFFER_LIMIT_BYTES,
) -> Summing:
    """Attach clipped sums to a model: for noise on the sum, which is added when a site's words are sealed.

    Args:
        model: as for `private_stepper`, like all others.
        optimizer: over exactly the trainable parameters; it takes no step.
        settings: clips and unit; its noise is not drawn here.
        buffer_limit_bytes: of the flat engine.
    Raises:
        Refused: the model or optimizer does not allow it; the model is as before.
    """
    gradients = _gradients(model, optimizer, settings, buffer_limit_bytes=buffer_limit_bytes)
    return Summing(model, optimizer, settings, gradients)


def _gradients(
    model: nn.Module, optimizer: torch.optim.Optimizer, settings: DpSettings, *, buffer_limit_bytes: int
) -> PerRecordGradients:
    require_clippable(model)
    require_same_parameters(model, optimizer)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    if settings.engine == "flat":
        return LinearGradients(model, parameters, buffer_limit_bytes=buffer_limit_bytes)
    return HookGradients(model, parameters)


def plain_stepper(model: nn.Module, optimizer: torch.optim.Optimizer, *, expected_batch: float) -> Stepper:
    """Attach steps without clipping and noise. They promise nothing, and their `events` are empty.

    Args:
        model: as for `private_stepper`.
        optimizer: as for `private_stepper`.
        expected_batch: records that the gradient sum is divided by, so that learning rates carry over, > 0.
    """
    require_same_parameters(model, optimizer)
    return _PlainStepper(optimizer, expected_batch)


class _Clipping:
    """Clips and adds up logical batches."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        settings: DpSettings,
        gradients: PerRecordGradients,
    ) -> None:
        self._model, self._settings, self._gradients = model, settings, gradients
        self._optimizer = ReleasingOptimizer(optimizer, settings=settings, gradients=gradients)
        self._tally = Tally(clip_norm=settings.clip_norm)

    def accumulate(self, loss_B: torch.Tensor, unit_B: Sequence[int] | None = None) -> None:
        """Add one physical batch; see `Accumulator`."""
        try:
            require_loss_per_record(loss_B)
            require_train_mode(self._model)
            self._gradients.begin(len(loss_B))
            with torch.autocast(loss_B.device.type, enabled=False):
                torch.autograd.backward(loss_B.sum())
            with torch.no_grad():
                added = self._optimizer.clip_and_accumulate(loss_B.detach().float(), unit_B)
        finally:
            self.discard_partial()
        self._count(added)

    def discard_partial(self) -> None:
        """Forget an interrupted pass; see `Accumulator`."""
        self._gradients.reset()
        self._optimizer.zero_grad()

    def close(self) -> None:
        """Take everything off the model that was put on it."""
        self.discard_partial()
        self._gradients.detach()
        self._optimizer.detach()

    def _count(self, added: Sequence[Added]) -> None:
        for part in added:
            self._tally.add(part.loss_U, part.norm_U, part.alive_U)


class Summing(_Clipping):
    """Clipped sums without noise, and without a step."""

    def take(self) -> ClippedSums:
        """Give what the logical batch, empty or not, adds up to, and begin the next one."""
        self._count(self._optimizer.close_unit())
        gradient_P, loss = self._optimizer.take_sums()
        return ClippedSums(gradient_P=gradient_P, loss=loss, local=self._tally.close())


class _PrivateStepper(_Clipping):
    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        settings: DpSettings,
        gradients: PerRecordGradients,
    ) -> None:
        super().__init__(model, optimizer, settings, gradients)
        self._accountant = make_accountant()
        self._optimizer.attach_step_hook(self._accountant.get_optimizer_hook_fn(settings.sampling_rate))
        self._moved = False

    def count(self, events: tuple[StepEvents, ...]) -> None:
        """Take over what the accountant has recorded of the round before, once, and first of all."""
        noise, rate = self._optimizer.noise_multiplier, self._settings.sampling_rate
        equal = [
            StepEvents(sampling_rate=rate, noise_multiplier=noise, steps=e.steps, unit=self._settings.unit)
            for e in events
        ]
        if list(events) != equal:
            raise Refused(
                "other_events",
                reason="the steps before were not of this noise, rate and unit",
                remedy="give the round up; the next one begins anew",
            )
        self._accountant.history = [(noise, rate, e.steps) for e in events]

    def step(self) -> StepResult:
        before = None if self._moved else self._snapshot()
        self._count(self._optimizer.close_unit())
        self._optimizer.step()
        self._optimizer.zero_grad()
        if before is not None:
            self._require_moved(before)
            self._moved = True
        noisy_loss_mean = self._optimizer.released_loss / self._settings.expected_batch
        return StepResult(noisy_loss_mean=noisy_loss_mean, local=self._tally.close())

    @property
    def events(self) -> tuple[StepEvents, ...]:
        return tuple(dataclasses.replace(e, unit=self._settings.unit) for e in self._accountant.events)

    def _snapshot(self) -> list[torch.Tensor]:
        return [p.detach().clone() for p in self._optimizer.params]

    def _require_moved(self, before: list[torch.Tensor]) -> None:
        rates = [group["lr"] for group in self._optimizer.param_groups]
        moved = any(not torch.equal(old, p) for old, p in zip(before, self._optimizer.params, strict=True))
        if not moved and any(rate > 0 for rate in rates):
            raise Refused(
                "adapter_did_not_move",
                reason="a noisy step changed no weight: the optimizer holds other tensors than the model",
                remedy="move the model, attach the adapter, then make the optimizer",
            )


class _PlainStepper:
    def __init__(self, optimizer: torch.optim.Optimizer, expected_batch: float) -> None:
        self._optimizer, self._expected_batch = optimizer, expected_batch
        self._parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self._sums = [torch.zeros_like(p) for p in self._parameters]
        self._tally = Tally(clip_norm=None)

    def accumulate(self, loss_B: torch.Tensor, unit_B: Sequence[int] | None = None) -> None:
        require_units(unit_B, patients=False, records=len(loss_B))
        try:
            require_loss_per_record(loss_B)
            torch.autograd.backward(loss_B.sum())
            for total, parameter in zip(self._sums, self._parameters, strict=True):
                if parameter.grad is not None:
                    total.add_(parameter.grad)
        finally:
            self.discard_partial()
        loss_B = loss_B.detach().float()
        self._tally.add(loss_B, torch.zeros_like(loss_B), loss_B.isfinite())

    def discard_partial(self) -> None:
        self._optimizer.zero_grad()

    def step(self) -> StepResult:
        for total, parameter in zip(self._sums, self._parameters, strict=True):
            parameter.grad = total / self._expected_batch
            total.zero_()
        self._optimizer.step()
        self._optimizer.zero_grad()
        local = self._tally.close()
        return StepResult(noisy_loss_mean=local.loss_mean, local=local)

    def close(self) -> None:
        self.discard_partial()

    @property
    def events(self) -> tuple[StepEvents, ...]:
        return ()
