"""What privacy asks of a round: units, records of what was done, and terms that cost nothing."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from partsong.client.data.batch import pad
from partsong.client.data.encode import Record
from partsong.client.dp import optimizer as optimizer_module
from partsong.client.dp.sampler import PatientSampler, PoissonSampler, SeededRandomness, SystemRandomness
from partsong.client.encoders.encoder import LocalUpdate
from partsong.client.model.host import ModelHost
from partsong.client.training.train import train_round
from partsong.common.config import TrainingConfig
from partsong.common.errors import Refused
from partsong.common.privacy.accounting import StepEvents, joint_multiplier
from partsong.common.privacy.terms import DpPlan

MakeHost = Callable[..., ModelHost]


MakeRecords = Callable[..., tuple[Record, ...]]


MakeDp = Callable[..., DpPlan]


LENGTHS = (9, 3, 6, 2, 12, 5, 7, 4)


def train(host: ModelHost, records: tuple[Record, ...], *, rate: float = 0.7, **changes: Any) -> LocalUpdate:
    """Train from the adapter that is on the host, with repeatable samples."""
    dp, randomness = changes.pop("dp", None), changes.pop("randomness", SeededRandomness(b"train"))
    on_step = changes.pop("on_step", lambda _: None)
    settings = {"steps_per_round": 3, "optim": "sgd", "learning_rate": 0.5} | changes
    return train_round(
        host,
        records,
        sampling_rate=rate,
        training=TrainingConfig(**settings),
        dp=dp,
        randomness=randomness,
        on_step=on_step,
    )


def refuse_more_than(host: ModelHost, most: int, seen: list[int]) -> None:
    """Run out of memory, as the allocator says it, in passes of more than `most` records."""

    def hook(_module: Any, _args: Any, kwargs: Any, _out: Any) -> None:
        size = len(kwargs["input_ids"])
        seen.append(size)
        if size > most:
            raise torch.OutOfMemoryError("CUDA out of memory")

    host.model.register_forward_hook(hook, with_kwargs=True)


def owned(records: tuple[Record, ...], owners: str) -> tuple[Record, ...]:
    """The same records, each of a patient."""
    return tuple(dataclasses.replace(r, unit=owner) for r, owner in zip(records, owners, strict=True))


@pytest.mark.parametrize("most", [16, 2])
@pytest.mark.parametrize("engine", ["hooks", "flat"])
def test_a_round_over_patients_is_what_a_loop_by_hand_gives(
    make_host: MakeHost, make_records: MakeRecords, make_dp: MakeDp, engine: str, most: int
) -> None:
    """Mean over each patient's records, clip, sum over the expected number of patients; memory for two records."""
    records = owned(make_records(LENGTHS), "abbbbcda")
    reference, host = make_host(), make_host()
    refuse_more_than(host, most, [])
    clip, sums = 0.05, []
    for patient in "abcd":
        mine = [r for r in records if r.unit == patient]
        loss = torch.stack([reference.loss_B(pad([r], pad_id=reference.pad_id))[0] for r in mine]).mean()
        gradient = torch.cat([g.flatten() for g in torch.autograd.grad(loss, reference.trainable())])
        sums.append(gradient * min(1.0, clip / float(gradient.norm())))
    expected_P = -torch.stack(sums).sum(0).numpy() / 4
    quiet = {"noise_multiplier": 0.1, "loss_noise_multiplier": 0.1, "clip_norm": clip, "loss_clip": 100.0}
    dp = make_dp(unit="patient", contribution_bound=4, sampling_rate=1.0, engine=engine, **quiet)

    update = train(host, records, rate=1.0, dp=dp, randomness=SystemRandomness(), steps_per_round=1, learning_rate=1.0)

    # the noise has deviation .1 * clip / 4 in every entry; along the expected direction only one entry's worth counts
    along = expected_P / np.linalg.norm(expected_P)
    assert float(update.update_P @ along) == pytest.approx(np.linalg.norm(expected_P), abs=6 * 0.1 * clip / 4)
    assert np.linalg.norm(expected_P) > 6 * 0.1 * clip / 4
    assert update.visits == 8


def test_what_was_recorded_is_what_sampler_and_optimizer_did(
    make_host: MakeHost, make_records: MakeRecords, make_dp: MakeDp, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rate, joint multiplier and number of steps, against a count of the draws and a look at the noise."""
    samples, noises = [], []
    for kind in (PoissonSampler, PatientSampler):
        sample = kind.sample
        monkeypatch.setattr(kind, "sample", lambda self, s=sample: samples.append((type(self), self.rate)) or s(self))
    noisy = optimizer_module.noisy
    monkeypatch.setattr(
        optimizer_module,
        "noisy",
        lambda x, *, std, kind: noises.append((len(x), std, kind)) or noisy(x, std=std, kind=kind),
    )
    host, records = make_host(), owned(make_records(LENGTHS), "abbbbcda")
    dp = make_dp(unit="patient", contribution_bound=2, sampling_rate=0.3, clip_norm=0.5, engine="flat")

    update = train(host, records, rate=0.3, dp=dp, randomness=SystemRandomness(), steps_per_round=5)

    size = host.layout.size(trained=True)
    assert [s for s in samples if s[0] is PatientSampler] == [(PatientSampler, 0.3)] * 5
    assert noises == [(size, 0.5, "gaussian"), (1, 4.0 * 8.0, "gaussian")] * 5
    event = StepEvents(sampling_rate=0.3, noise_multiplier=joint_multiplier(1.0, 4.0), steps=5, unit="patient")
    assert update.events == (event,) == (dp.events(steps=5, size=size),)
    assert train(host, records).events == ()


@pytest.mark.parametrize(("noise", "on_its_grid"), [("discrete", True), ("gaussian", False)])
def test_discrete_noise_can_be_chosen_and_counts_with_its_rounding(
    make_host: MakeHost, make_records: MakeRecords, make_dp: MakeDp, noise: str, *, on_its_grid: bool
) -> None:
    """The released gradient lies on the grid, and the recorded multiplier is the widened one, a little below."""
    host, rate = make_host(), 2.0**-7
    dp = make_dp(noise=noise, sampling_rate=1.0, engine="flat", clip_norm=2.0)
    before_P = host.take()

    update = train(
        host, make_records(LENGTHS), rate=1.0, dp=dp, randomness=SystemRandomness(), steps_per_round=1,
        learning_rate=rate,
    )  # fmt: skip

    # one SGD step from an adapter of zeros: update = -rate * (k * std / 2**20) / 8, all factors powers of two
    assert not before_P.any()
    steps_P = update.update_P.astype(np.float64) / (rate * 2.0 * 2.0**-20 / 8)
    small = np.abs(steps_P) < 2**22  # where float32 holds quarters
    assert small.mean() > 0.9
    assert bool((steps_P[small] == np.round(steps_P[small])).all()) is on_its_grid
    (event,) = update.events
    assert event == dp.events(steps=1, size=host.layout.size(trained=True))
    assert (0.9999 < event.noise_multiplier / joint_multiplier(1.0, 4.0) < 1) is on_its_grid


@pytest.mark.parametrize("owners", [(None,) * 8, ("a",) * 7 + (None,)])
def test_records_without_an_owner_are_refused_where_patients_are_the_unit(
    make_host: MakeHost, make_records: MakeRecords, make_dp: MakeDp, owners: tuple[str | None, ...]
) -> None:
    """Nobody is guessed to be a patient of their own."""
    records = tuple(dataclasses.replace(r, unit=u) for r, u in zip(make_records(LENGTHS), owners, strict=True))
    host = make_host()
    before_P = host.take()

    with pytest.raises(Refused, match="units_unknown"):
        train(
            host,
            records,
            dp=make_dp(unit="patient", contribution_bound=2, sampling_rate=0.7),
            randomness=SystemRandomness(),
        )

    assert (host.take() == before_P).all()


@pytest.mark.parametrize("mu", [0.0, 0.8])
def test_fedprox_pulls_back_to_the_adapter_of_the_round(
    make_host: MakeHost, make_records: MakeRecords, mu: float
) -> None:
    """By hand: each step is rate * (gradient + mu * way from the start), with all records in every sample."""
    host, reference, records = make_host(), make_host(), make_records(LENGTHS)
    start = [p.detach().clone() for p in reference.trainable()]
    start_P = reference.take()
    for _ in range(3):
        loss = reference.loss_B(pad(list(records), pad_id=reference.pad_id)).sum() / len(records)
        grads = torch.autograd.grad(loss, reference.trainable())
        with torch.no_grad():
            for p, p0, g in zip(reference.trainable(), start, grads, strict=True):
                p.sub_(0.5 * (g + mu * (p - p0)))

    update = train(host, records, rate=1.0, prox_mu=mu)

    expected_P = reference.take() - start_P
    assert np.abs(update.update_P - expected_P).max() < 1e-5 * np.abs(expected_P).max()


def test_fedprox_shortens_a_private_update_and_costs_nothing(
    make_host: MakeHost, make_records: MakeRecords, make_dp: MakeDp
) -> None:
    """With mu = 1 / rate every step starts over, so a round is one step long; the events are the same."""
    records, dp = make_records(LENGTHS), make_dp(noise_multiplier=1.0, sampling_rate=0.7)
    free, held = (
        train(make_host(), records, dp=dp, randomness=SystemRandomness(), steps_per_round=9, prox_mu=mu)
        for mu in (0.0, 2.0)
    )

    assert free.events == held.events
    assert np.linalg.norm(held.update_P) < 0.6 * np.linalg.norm(free.update_P)
