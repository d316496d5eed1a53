"""A local round that goes on where another process broke it off."""

import dataclasses
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from partsong.client.data.encode import Record
from partsong.client.dp import optimizer, release
from partsong.client.dp.sampler import PoissonSampler, Randomness, SeededRandomness, SystemRandomness
from partsong.client.encoders.encoder import LocalUpdate
from partsong.client.encoders.halfway import Halfway, SoFar
from partsong.client.model.host import ModelHost
from partsong.client.training.train import train_round
from partsong.client.training.unfinished_format import to_bytes
from partsong.common.config import TrainingConfig
from partsong.common.errors import Refused
from partsong.common.privacy.terms import DpPlan

MakeHost = Callable[..., ModelHost]
MakeRecords = Callable[..., tuple[Record, ...]]
MakeDp = Callable[..., DpPlan]
LENGTHS = (9, 3, 6, 2, 12, 5, 7, 4)
STEPS = 4


class Broken(BaseException):
    """The process is gone."""


class Slip:
    """A bookmark in memory, after whose chosen step the process is gone."""

    def __init__(self, *, breaks_after: int | None = None) -> None:
        self.last: Halfway | None = None
        self.all: list[Halfway] = []
        self.breaks_after = breaks_after

    def read(self) -> Halfway | None:
        return self.last

    def put(self, take: Callable[[], Halfway]) -> None:
        self.last = take()
        self.all.append(self.last)
        if self.last.so_far.step == self.breaks_after:
            raise Broken


class Case:
    """One round, to be trained again and again from the same adapter."""

    def __init__(self, host: ModelHost, records: tuple[Record, ...], dp: DpPlan | None = None, **training: Any) -> None:
        self.host, self.records, self.dp, self.start_P = host, records, dp, host.take()
        settings = {"steps_per_round": STEPS, "optim": "adamw", "learning_rate": 0.05, "weight_decay": 0.01}
        self.training = TrainingConfig(**settings | training)

    def train(self, slip: Slip | None = None) -> LocalUpdate:
        self.host.put(self.start_P)
        randomness: Randomness = SeededRandomness(b"round") if self.dp is None else SystemRandomness()
        return train_round(
            self.host, self.records, sampling_rate=0.6, training=self.training, dp=self.dp, randomness=randomness,
            bookmark=slip,
        )  # fmt: skip

    def broken(self, *, after: int) -> Slip:
        """What is noted of a round that broke off after a step; the model is anywhere since."""
        slip = Slip(breaks_after=after)
        with pytest.raises(Broken):
            self.train(slip)
        slip.breaks_after = None
        return slip


def assert_equal(one: LocalUpdate, other: LocalUpdate) -> None:
    assert one.update_P.tobytes() == other.update_P.tobytes()
    assert dataclasses.replace(one, update_P=other.update_P) == other


@pytest.mark.parametrize("optim", ["sgd", "adamw"])
def test_a_round_that_broke_off_at_any_step_ends_as_if_it_had_not(
    make_host: MakeHost, make_records: MakeRecords, optim: str
) -> None:
    """Without noise and with a repeatable sample: the update, the loss and the counts, bit by bit."""
    case = Case(make_host(), make_records(LENGTHS), optim=optim)
    whole = case.train()

    resumed = [case.train(case.broken(after=step)) for step in range(1, STEPS + 1)]

    for update in resumed:
        assert_equal(update, whole)
    assert np.abs(whole.update_P).max() > 1e-3
    assert whole.visits > STEPS


def test_a_round_may_break_off_again_and_again(make_host: MakeHost, make_records: MakeRecords) -> None:
    """Once after each step; no step is noted twice."""
    case, slip = Case(make_host(), make_records(LENGTHS)), Slip()
    for step in range(1, STEPS):
        slip.breaks_after = step
        with pytest.raises(Broken):
            case.train(slip)
    slip.breaks_after = None

    update = case.train(slip)

    assert_equal(update, case.train())
    assert [halfway.so_far.step for halfway in slip.all] == [1, 2, 3, 4]


@pytest.mark.parametrize("forgotten", ["slots", "adapter", "sums"])
def test_each_part_of_a_note_is_needed(make_host: MakeHost, make_records: MakeRecords, forgotten: str) -> None:
    """The control: a round that goes on without one of them ends elsewhere."""
    case = Case(make_host(), make_records(LENGTHS))
    slip = case.broken(after=2)
    assert slip.last is not None
    changes: dict[str, dict[str, Any]] = {
        "slots": {"slots": tuple((name, 0 * vector_P) for name, vector_P in slip.last.slots)},
        "adapter": {"adapter_P": case.start_P},
        "sums": {"so_far": SoFar(step=2)},
    }
    slip.last = dataclasses.replace(slip.last, **changes[forgotten])

    update, whole = case.train(slip), case.train()

    assert (
        update.update_P.tobytes() + repr(update.loss).encode() != whole.update_P.tobytes() + repr(whole.loss).encode()
    )


@pytest.mark.parametrize("kind", ["gaussian", "discrete"])
def test_noise_is_drawn_once_for_each_step_however_often_a_round_breaks_off(
    make_host: MakeHost, make_records: MakeRecords, make_dp: MakeDp, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Gradient and loss of each step, no draw more; and the events are those of the plan, counted once."""
    draws = count_draws(monkeypatch)
    case = Case(make_host(), make_records(LENGTHS), make_dp(sampling_rate=0.6, noise=kind))
    slip = Slip()
    for step in range(1, STEPS):
        slip.breaks_after = step
        with pytest.raises(Broken):
            case.train(slip)
    slip.breaks_after = None

    update = case.train(slip)

    assert case.dp is not None
    size = case.host.layout.size(trained=True)
    assert draws == [size, 1] * STEPS
    assert update.events == (case.dp.events(steps=STEPS, size=size),)
    assert [halfway.events[0].steps for halfway in slip.all] == [1, 2, 3, 4]


def test_what_was_noised_stays_as_it_was(make_host: MakeHost, make_records: MakeRecords, make_dp: MakeDp) -> None:
    """A round that broke off after its last step ends with the very adapter and loss that were noted."""
    case = Case(make_host(), make_records(LENGTHS), make_dp(sampling_rate=0.6))
    slip = case.broken(after=STEPS)
    assert slip.last is not None
    noted = slip.last

    update = case.train(slip)

    assert (update.update_P == noted.adapter_P - case.start_P).all()
    assert update.loss == noted.so_far.loss_sum / STEPS
    assert len(slip.all) == STEPS


@pytest.mark.parametrize("change", ["noise_multiplier", "sampling_rate", "unit"])
def test_events_of_other_steps_are_refused(
    make_host: MakeHost, make_records: MakeRecords, make_dp: MakeDp, change: str
) -> None:
    """A note of another noise, rate or unit is not counted as this round's."""
    case = Case(make_host(), make_records(LENGTHS), make_dp(sampling_rate=0.6))
    slip = case.broken(after=1)
    assert slip.last is not None
    other: dict[str, Any] = {"noise_multiplier": 9.0, "sampling_rate": 0.5, "unit": "patient"}
    events = tuple(dataclasses.replace(e, **{change: other[change]}) for e in slip.last.events)
    slip.last = dataclasses.replace(slip.last, events=events)

    with pytest.raises(Refused, match="other_events"):
        case.train(slip)

    assert case.train().events[0].steps == STEPS


def test_a_note_holds_no_gradient_before_its_noise(
    make_host: MakeHost, make_records: MakeRecords, make_dp: MakeDp
) -> None:
    """With noise as large as this, nothing that is noted points along the exact gradient; without, Adam's mean does."""
    records = make_records(LENGTHS)
    exact = Case(make_host(), records).broken(after=1)
    noisy = Case(make_host(), records, make_dp(sampling_rate=0.6, noise_multiplier=1e3)).broken(after=1)
    assert exact.last is not None
    assert noisy.last is not None
    gradient_P = dict(exact.last.slots)["exp_avg"]

    along = {name: cosine(gradient_P, vector_P) for name, vector_P in noisy.last.slots}

    control = {name: cosine(gradient_P, vector_P) for name, vector_P in exact.last.slots}
    assert abs(along["exp_avg"]) < 6 / np.sqrt(len(gradient_P))
    assert control["exp_avg"] == pytest.approx(1.0)


@pytest.mark.parametrize("kind", ["gaussian", "discrete"])
def test_secrets_of_a_step_are_in_no_note(
    make_host: MakeHost, make_records: MakeRecords, make_dp: MakeDp, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Keys and values of noise, sums before it, losses of records, samples; what is noted is found, so all would be."""
    case, slip = Case(make_host(), make_records(LENGTHS), make_dp(sampling_rate=0.6, noise=kind)), Slip()
    secrets: list[bytes] = []
    watch_secrets(monkeypatch, secrets)

    case.train(slip)

    notes = [to_bytes(halfway) for halfway in slip.all]
    assert len(secrets) > 4 * STEPS
    assert all(len(secret) >= 8 for secret in secrets)
    assert not [secret for secret in secrets for note in notes if secret in note]
    assert slip.all[0].adapter_P[:2].tobytes() in notes[0]


def watch_secrets(monkeypatch: pytest.MonkeyPatch, secrets: list[bytes]) -> None:
    """Write down what no note may hold, in each width that it could be noted in."""
    noisy, sample, urandom = optimizer.noisy, PoissonSampler.sample, os.urandom
    added = optimizer.ReleasingOptimizer._added

    def watch_noise(sum_N: torch.Tensor, *, std: float, kind: Any) -> torch.Tensor:
        out = noisy(sum_N, std=std, kind=kind)
        if len(sum_N) > 1:
            for secret_N in (sum_N, out, out - sum_N):
                secrets.extend(secret_N[2:6].numpy().astype(width).tobytes() for width in (np.float64, np.float32))
        return out

    def watch_sample(self: PoissonSampler) -> Any:
        chosen = sample(self)
        if len(chosen) > 3:  # two small numbers also stand side by side where steps and records are counted
            secrets.extend(chosen[:4].astype(width).tobytes() for width in (np.int64, ">i8"))
        return chosen

    def watch_losses(self: Any, loss_U: torch.Tensor, norm_U: torch.Tensor) -> Any:
        if len(loss_U) > 1:
            secrets.extend(loss_U[:2].numpy().astype(width).tobytes() for width in (np.float64, np.float32))
        return added(self, loss_U, norm_U)

    monkeypatch.setattr(optimizer, "noisy", watch_noise)
    monkeypatch.setattr(PoissonSampler, "sample", watch_sample)
    monkeypatch.setattr(optimizer.ReleasingOptimizer, "_added", watch_losses)
    monkeypatch.setattr(os, "urandom", lambda size: secrets.append(urandom(size)) or secrets[-1])


def cosine(one_P: np.ndarray, other_P: np.ndarray) -> float:
    one_P, other_P = one_P.astype(np.float64), other_P.astype(np.float64)
    return float(one_P @ other_P / (np.linalg.norm(one_P) * np.linalg.norm(other_P)))


def count_draws(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Write down the size of every noise that is drawn, of whichever kind."""
    draws: list[int] = []
    continuous, whole = release.standard_normal, release.discrete_gaussian
    monkeypatch.setattr(release, "standard_normal", lambda count: draws.append(count) or continuous(count))
    monkeypatch.setattr(
        release, "discrete_gaussian", lambda count, *, scale: draws.append(count) or whole(count, scale=scale)
    )
    return draws
