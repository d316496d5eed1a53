"""What each method trains at a site, and that one record still moves a step by no more than the clip."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from partsong.client.data.batch import pad
from partsong.client.data.encode import Encoded, Record
from partsong.client.dp.engine import DpSettings, private_stepper
from partsong.client.dp.sampler import SystemRandomness
from partsong.client.encoders.encoder import LocalRound, LocalUpdate
from partsong.client.encoders.lora import LoraTraining
from partsong.client.model.host import ModelHost
from partsong.common.adapters.turns import gather, specs_of
from partsong.common.config import AdapterConfig
from partsong.common.plan import Plan
from partsong.common.privacy.terms import DpPlan

MakePlan = Callable[..., Plan]
MakeRecords = Callable[..., tuple[Record, ...]]

ADAPTERS: dict[str, dict[str, Any]] = {
    "ffa": {"method": "ffa"},
    "fedit": {"method": "fedit"},
    "rolora": {"method": "rolora"},
    "refreshed": {"method": "ffa", "refresh": 2},
    "fedsb": {"method": "fedsb"},
    "from base weights": {"method": "fedsb", "a_init": "public_svd"},
}
PRIVATE = {"mode": "dp", "epsilon": 500.0, "delta": 1e-3, "noise_multiplier": 0.5, "sampling_rate": 0.5}


@pytest.fixture
def hosts(make_host: Callable[..., ModelHost]) -> Callable[[str], ModelHost]:
    """A host for a method, with an adapter that is not zero anywhere."""

    def make(name: str) -> ModelHost:
        host = make_host(**ADAPTERS[name])
        rng = np.random.default_rng(3)
        host.put((0.3 * rng.standard_normal(host.layout.size(trained=True))).astype(np.float32))
        return host

    return make


def trained(host: ModelHost, plan: Plan, encoded: Encoded, number: int) -> LocalUpdate:
    """One round at a site, from the adapter that the host carries."""
    return LoraTraining(host=host, encoded=encoded, labels=()).encode(LocalRound(
        plan=plan, number=number, frozen_F=host.take(trained=False), adapter_P=host.take(),
        randomness=SystemRandomness(), on_step=lambda _: None,
    ))  # fmt: skip


@pytest.mark.parametrize("name", sorted(ADAPTERS))
@pytest.mark.parametrize("privacy", [None, PRIVATE], ids=["plain", "private"])
def test_a_round_moves_what_it_trains_and_nothing_else(
    hosts: Callable[[str], ModelHost],
    make_site_plan: MakePlan,
    make_records: MakeRecords,
    make_encoded: Callable[..., Encoded],
    name: str,
    privacy: dict[str, Any] | None,
) -> None:
    """The update has the size of the round; every tensor of the turn moves, the others keep their bits."""
    host, adapter = hosts(name), AdapterConfig(r=2, lora_alpha=4.0, **ADAPTERS[name])
    plan = make_site_plan(host, adapter=adapter, privacy=privacy or {"sampling_rate": 0.999}, rounds=4)
    for number in (1, 2, 3):
        before_P, before_F = host.take(), host.take(trained=False)

        update = trained(host, plan, make_encoded(make_records()), number)

        moved_P = host.take() - before_P
        assert update.update_P.size == plan.update_size(number)
        assert (gather(moved_P, plan.layout, plan.turn(number)) == update.update_P).all()
        assert np.count_nonzero(moved_P) == np.count_nonzero(update.update_P) > 0.9 * update.update_P.size
        assert (host.take(trained=False) == before_F).all()
        assert sum(e.steps for e in update.events) == (plan.training.steps_per_round if privacy else 0)
        assert host.trainable() == [p for p in host.model.parameters() if p.requires_grad]


@pytest.mark.parametrize("name", sorted(ADAPTERS))
def test_every_turn_pays_what_every_other_pays(
    hosts: Callable[[str], ModelHost],
    make_site_plan: MakePlan,
    make_records: MakeRecords,
    make_encoded: Callable[..., Encoded],
    name: str,
) -> None:
    """Its own clip scales the noise with it: the accountant sees one event, whatever is trained."""
    host = hosts(name)
    adapter = AdapterConfig(r=2, lora_alpha=4.0, **ADAPTERS[name], clip_ratio=0.25)
    plan = make_site_plan(host, adapter=adapter, privacy=PRIVATE, rounds=4)

    events = [trained(host, plan, make_encoded(make_records()), number).events for number in (1, 2)]

    assert events[0] == events[1]


@pytest.mark.parametrize("engine", ["flat", "hooks"])
@pytest.mark.parametrize("name", sorted(ADAPTERS))
def test_one_record_moves_a_step_of_any_turn_by_no_more_than_its_clip(
    hosts: Callable[[str], ModelHost], make_site_plan: MakePlan, make_records: MakeRecords, name: str, engine: Any
) -> None:
    """Leave-one-out before noise, for the parameters that each kind of round trains and nothing besides."""
    host, records = hosts(name), make_records((24, 2, 3, 9))
    plan = make_site_plan(host, adapter=AdapterConfig(r=2, lora_alpha=4.0, **ADAPTERS[name], clip_ratio=0.5), rounds=4)
    for number in (1, 2, 3):
        turn = plan.turn(number)
        clip = 0.05 * (1.0 if turn is None else turn.clip_norm)
        with host.only(specs_of(plan.layout, turn)), host.training():
            whole_Q = summed(host, records, clip=clip, engine=engine)
            moves = [
                float((whole_Q - summed(host, records[:out] + records[out + 1 :], clip=clip, engine=engine)).norm())
                for out in range(len(records))
            ]

        assert whole_Q.numel() == plan.update_size(number)
        assert 0.5 * clip < max(moves) <= clip * (1 + 1e-5)


def summed(host: ModelHost, records: tuple[Record, ...], *, clip: float, engine: Any) -> torch.Tensor:
    """What a step would release of these records before noise, (Q,)."""
    settings = DpSettings(
        clip_norm=clip, clipping="abadi", noise_multiplier=1.0, sampling_rate=0.5, expected_batch=2.0, loss_clip=8.0,
        loss_noise_multiplier=4.0, engine=engine, noise="gaussian", unit="record",
    )  # fmt: skip
    stepper = private_stepper(host.model, torch.optim.SGD(host.trainable(), lr=0.1), settings)
    try:
        stepper.accumulate(host.loss_B(pad(list(records), pad_id=host.pad_id)))
        return stepper._optimizer.sum_P.double().clone()  # type: ignore[attr-defined,no-any-return]
    finally:
        stepper.close()


def test_the_slower_factor_moves_less(
    hosts: Callable[[str], ModelHost],
    make_site_plan: MakePlan,
    make_records: MakeRecords,
    make_encoded: Callable[..., Encoded],
) -> None:
    """Adam's first step is one learning rate long in each entry: B's is five times A's, or as configured."""
    host, longest = hosts("rolora"), {}
    for ratio in (5.0, 2.0):
        adapter = AdapterConfig(r=2, lora_alpha=4.0, method="rolora", lr_ratio=ratio)
        plan = make_site_plan(host, adapter=adapter, privacy={"sampling_rate": 1.0})
        plan = replace(plan, training=replace(plan.training, steps_per_round=1))
        for number in (1, 2):
            update_P = trained(host, plan, make_encoded(make_records()), number).update_P
            longest[ratio, number] = float(np.abs(update_P).max())

    assert longest[5.0, 1] == pytest.approx(1e-2, rel=1e-2)
    assert longest[5.0, 2] == pytest.approx(2e-3, rel=1e-2)
    assert longest[2.0, 2] == pytest.approx(5e-3, rel=1e-2)


def terms(plan: Plan) -> DpPlan:
    """The plan's privacy terms."""
    assert plan.dp is not None
    return plan.dp


def test_the_bound_of_a_sealed_update_follows_the_turn(
    hosts: Callable[[str], ModelHost], make_site_plan: MakePlan
) -> None:
    """With SGD: steps times rate times clip and noise; a fifth of the rate and half the clip give a tenth per size."""
    adapter = AdapterConfig(r=2, lora_alpha=4.0, method="rolora", clip_ratio=0.5)
    plan = make_site_plan(hosts("rolora"), adapter=adapter, privacy=PRIVATE)
    sgd = replace(plan.training, optim="sgd")
    plan = make_site_plan(hosts("rolora"), adapter=adapter, privacy=PRIVATE, training=sgd)

    b, a = plan.turns

    reach = [1 + terms(plan).noise_multiplier * plan.update_size(number) ** 0.5 / 8 for number in (1, 2)]
    assert b.update_clip == pytest.approx(2 * 1e-2 * reach[0])
    assert a.update_clip == pytest.approx(2 * 2e-3 * 0.5 * reach[1])
    clips = [plan.encoding_of(number).blocks[0].clip for number in (1, 2, 3)]
    assert clips == [b.update_clip, a.update_clip, b.update_clip]
