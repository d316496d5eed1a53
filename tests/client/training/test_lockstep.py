"""A step that sites take together: without noise it is the step of one site that has all the records."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from partsong.client.data.batch import pad
from partsong.client.data.encode import Record
from partsong.client.dp.discrete import discrete_gaussian
from partsong.client.dp.sampler import PoissonSampler, SeededRandomness, SystemRandomness
from partsong.client.encoders.encoder import LocalUpdate
from partsong.client.model.host import ModelHost
from partsong.client.training.lockstep import sum_gradients
from partsong.common.adapters.methods import ServerState, advance, server_step
from partsong.common.config import (
    DataConfig,
    ModelConfig,
    PrivacyConfig,
    SecureSumConfig,
    ServerOptimizerConfig,
    SimulationConfig,
    TrainingConfig,
)
from partsong.common.errors import Refused
from partsong.common.plan import LOSS, UPDATE, Plan, rotation_seed
from partsong.common.secure_sum.noised import encode
from partsong.common.secure_sum.opened import Opened, read_sum
from partsong.common.thresholds import Floors
from partsong.server.planning import Base, make_plan

MakeHost = Callable[..., ModelHost]
MakeRecords = Callable[..., tuple[Record, ...]]
SITES = 3
CLIP, BATCH, RATE = 0.5, 8.0, 0.4


class Told:
    """Random words that a test can draw again; under the terms of a plan a seeded source is refused."""

    repeatable = False

    def __init__(self, *name: int) -> None:
        self._stream = np.random.default_rng(name)

    def words(self, count: int) -> np.ndarray:
        return self._stream.integers(0, 2**64, count, dtype=np.uint64)


def planned(host: ModelHost, *, optimizer: str = "fedavg", **privacy: Any) -> Plan:
    terms = {"placement": "sum", "expected_batch": BATCH, "sampling_rate": RATE, "clip_norm": CLIP, "epsilon": 8.0}
    config = SimulationConfig(
        model=ModelConfig(source="x"),
        data=DataConfig(),
        privacy=PrivacyConfig(**terms | privacy),
        training=TrainingConfig(steps_per_round=1, optim="sgd", learning_rate=2.0, lr_scheduler_type="linear"),
        optimizer=ServerOptimizerConfig(name=optimizer, learning_rate=0.5),
        secure_sum=SecureSumConfig(field_bits=32),
        rounds=3,
    )
    return make_plan(
        config,
        run="run-1",
        max_sites=SITES,
        base=Base(sha256=host.files.sha256, lora=host.lora_options, layout=host.layout),
        labels=(),
        frozen_F=host.take(trained=False),
        start_P=host.take(),
        floors=Floors(minimum_cohort=3, minimum_honest=2, corrupt_tolerance=0),
    )


def local(host: ModelHost, records: tuple[Record, ...], plan: Plan, randomness: Any, **dp: Any) -> LocalUpdate:
    assert plan.dp is not None
    terms = dataclasses.replace(plan.dp, **dp)
    return sum_gradients(host, records, training=plan.training, dp=terms, randomness=randomness)


def summed(updates: list[LocalUpdate], plan: Plan, *, number: int, noise: Callable[[int, int], np.ndarray]) -> Opened:
    """Every site encodes, the words are added, and the sum is read as everybody reads it."""
    seed, rng = rotation_seed(plan.sha256, number=number), np.random.default_rng(number)
    words = [
        encode(
            {UPDATE: u.update_P, LOSS: np.array([u.loss])},
            plan.noised(number),
            rotation_seed=seed,
            rng=rng,
            noise=noise,
        )
        for u in updates
    ]
    return read_sum(np.sum(words, axis=0, dtype=np.uint64), plan, number=number, sites=len(updates))


def silence(count: int, _scale: int) -> np.ndarray:
    return np.zeros(count, np.int64)


def clipped_by_hand(host: ModelHost, records: list[Record]) -> np.ndarray:
    """Record by record: gradient, its norm, min(1, C / n)."""
    total_P = np.zeros(host.layout.size(trained=True))
    for record in records:
        loss = host.loss_B(pad([record], pad_id=host.pad_id))[0]
        gradient = torch.autograd.grad(loss, host.trainable())
        gradient_P = torch.cat([g.flatten() for g in gradient]).double().numpy()
        total_P += gradient_P * min(1.0, CLIP / float(np.linalg.norm(gradient_P)))
    return total_P


@pytest.mark.parametrize("optimizer", ["fedavg", "fedadam"])
def test_without_noise_lockstep_is_centralised_training_on_the_pooled_records(
    make_host: MakeHost, make_records: MakeRecords, optimizer: str
) -> None:
    """Three rounds, three sites of unlike sizes, the same batches: one optimizer on all records, clipped one by one."""
    host, central = make_host(method="fedit"), make_host(method="fedit")
    plan = planned(host, optimizer=optimizer)
    sites = [make_records((9, 3, 6, 2, 12)[: 3 + k] * (k + 1), seed=k) for k in range(SITES)]
    state = pooled = start = ServerState(adapter_P=host.take().astype(np.float64))
    for number in (1, 2, 3):
        host.put(state.adapter_P.astype(np.float32))
        updates = [local(host, records, plan, Told(k, number)) for k, records in enumerate(sites)]
        state = advance(state, summed(updates, plan, number=number, noise=silence).mean_P, plan, number=number)

        central.put(pooled.adapter_P.astype(np.float32))
        samples = [PoissonSampler(len(r), RATE, randomness=Told(k, number)).sample() for k, r in enumerate(sites)]
        drawn = [records[i] for records, sample in zip(sites, samples, strict=True) for i in sample]
        step_P = -(2.0 * (1 - (number - 1) / 3) / BATCH) * clipped_by_hand(central, drawn)
        pooled = server_step(pooled, step_P, plan.optimizer)

    moved = np.abs(pooled.adapter_P - start.adapter_P).max()
    assert np.abs(state.adapter_P - pooled.adapter_P).max() < 1e-4 * moved
    assert moved > 1e-3


def test_the_noise_of_the_plan_does_show(make_host: MakeHost, make_records: MakeRecords) -> None:
    """The control: with real shares the same sums are off by the noise, by no more and no less."""
    host = make_host()
    plan = planned(host)
    updates = [local(host, make_records((9, 3, 6), seed=k), plan, Told(k)) for k in range(SITES)]

    exact, noisy = (
        summed(updates, plan, number=1, noise=noise).mean_P
        for noise in (silence, lambda count, scale: discrete_gaussian(count, scale=scale))
    )

    assert plan.dp is not None
    assert plan.dp.on_sum is not None
    share = plan.noised(1).share_stds[UPDATE] * 2.0 / BATCH
    # Some hundred values: 40 % is six deviations of the estimate.
    assert float((noisy - exact).std()) == pytest.approx(share * np.sqrt(SITES), rel=0.4)


@pytest.mark.parametrize("engine", ["flat", "hooks"])
def test_one_record_moves_a_site_s_sum_by_no_more_than_its_clip(
    make_host: MakeHost, make_records: MakeRecords, engine: str
) -> None:
    """Leave one out of a sample of all: some record reaches the clip, and none exceeds it; losses likewise."""
    host, records = make_host(), make_records((9, 3, 6, 2))
    plan = planned(host, sampling_rate=1.0, clip_norm=0.05, loss_clip=4.0)

    whole = local(host, records, plan, SystemRandomness(), engine=engine)
    rest = [local(host, records[:i] + records[i + 1 :], plan, SystemRandomness(), engine=engine) for i in range(4)]

    moved = [float(np.linalg.norm(whole.update_P - one.update_P)) for one in rest]
    assert max(moved) == pytest.approx(0.05, rel=1e-4)
    assert max(moved) <= 0.05 * (1 + 1e-5)
    assert max(whole.loss - one.loss for one in rest) <= 4.0 + 1e-9


def test_the_adapter_stays_and_an_empty_sample_is_a_sum_of_zeros(
    make_host: MakeHost, make_records: MakeRecords
) -> None:
    """The step is the coordinator's. Nobody drawn is no reason to answer otherwise."""
    host, told = make_host(), []
    plan, before_P = planned(host), host.take()

    none = sum_gradients(
        host,
        make_records((9, 3)),
        training=plan.training,
        dp=dataclasses.replace(plan.dp, sampling_rate=1e-9),
        randomness=SystemRandomness(),
        on_step=told.append,
    )

    assert not none.update_P.any()
    assert (none.loss, none.visits, none.tokens) == (0.0, 0, 0)
    assert (host.take() == before_P).all()
    assert [(p.step, p.steps) for p in told] == [(1, 1)]


def test_a_sample_that_can_be_drawn_again_is_refused(make_host: MakeHost, make_records: MakeRecords) -> None:
    """Who guesses the seed knows which records a step used."""
    host = make_host()

    with pytest.raises(Refused, match="predictable_sample"):
        local(host, make_records((9, 3)), planned(host), SeededRandomness(b"x"))
