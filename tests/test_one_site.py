"""A federation of one site with plain averaging is training at that site."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from partsong.client.budget.ledger import Ledger
from partsong.client.budget.spending import Purse
from partsong.client.data.encode import Encoded, EncodingReport, Record
from partsong.client.dp.sampler import SeededRandomness
from partsong.client.encoders.lora import LoraTraining
from partsong.client.model.host import ModelHost
from partsong.client.model.load import load
from partsong.client.rules.agreement import ByRules
from partsong.client.rules.consent import Rules
from partsong.client.secure_sum.door import PlainDoor
from partsong.client.site import Chance, Site
from partsong.client.training.train import train_round
from partsong.common.adapters.adapter import TensorSpec, flatten, unflatten
from partsong.common.adapters.methods import METHODS, ServerState
from partsong.common.config import (
    AdapterConfig,
    CohortConfig,
    DataConfig,
    ModelConfig,
    PrivacyConfig,
    SecureSumConfig,
    SimulationConfig,
    TrainingConfig,
)
from partsong.common.plan import Plan
from partsong.server.coordinator import Coordinator
from partsong.server.exchange import Parcel
from partsong.server.planning import Base, make_plan
from partsong.server.rounds import Loss
from partsong.server.studies.train import train

TINY = Path(__file__).parent / "fixtures" / "tiny-llama"


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Memory:
    """Carries messages from hand to hand."""

    def __init__(self, site: Site) -> None:
        self.site = site

    def addresses(self) -> tuple[int, ...]:
        return (1,)

    def site_at(self, address: int) -> str | None:
        return None

    def ask(
        self, parcels: Mapping[int, Parcel], *, phase: str, timeout_s: float
    ) -> Iterator[tuple[int, Parcel | Loss]]:
        for address, parcel in parcels.items():
            answer = self.site.handle(parcel.header, vector=parcel.vector)
            yield address, Parcel(header=answer.header, vector=answer.vector)


def adapter_of(method: Any) -> AdapterConfig:
    """FFA with a new A in the third round is a method of its own here."""
    kind = {"refreshed": {"method": "ffa", "refresh": 2}, "sketch": {"method": "sketch", "sketch": 2}}.get(
        method, {"method": method}
    )
    return AdapterConfig(r=2, target_modules=("q_proj", "v_proj"), **kind)


def host_of(method: Any) -> ModelHost:
    return load(ModelConfig(source=str(TINY), device="cpu"), adapter_of(method))


def records() -> tuple[Record, ...]:
    rng = np.random.default_rng(0)
    ids = [rng.integers(3, 1000, int(n)).astype(np.int32) for n in rng.integers(3, 12, 16)]
    return tuple(Record(input_ids=i, labels=i, label=-1, unit=None) for i in ids)


def chance(_plan: Plan, number: int) -> Chance:
    return Chance(samples=SeededRandomness(bytes([number])), rounding=np.random.default_rng(number))


def trained_by_hand(method: str, host: ModelHost, number: int) -> tuple[tuple[TensorSpec, ...], float]:
    """What the method trains in this round, and how much slower than its rate."""
    part, rate = "", 1.0
    if method == "rolora":
        part, rate = (".lora_A.", 0.2) if number == 2 else (".lora_B.", 1.0)
    if method == "refreshed":
        part = f".lora_B.blocks.{number // 3}."
    return tuple(t for t in host.layout.trained if part in t.name), rate


def turn_by_hand(host: ModelHost, before_P: np.ndarray, number: int) -> None:
    """What FedRot does between two rounds of rank 2: turn by half the angle that brings a factor closest."""
    then, now = (unflatten(vector_P, host.layout.trained) for vector_P in (before_P, host.take()))
    turned = {}
    for name in [name for name in now if ".lora_A." in name]:
        b_name = name.replace(".lora_A.", ".lora_B.")
        if number % 2:
            (a, b), (c, d) = then[name].astype(float) @ now[name].T.astype(float)
        else:
            (a, b), (c, d) = then[b_name].T.astype(float) @ now[b_name].astype(float)
        half = np.arctan2(c - b, a + d) / 2
        turn_rr = np.array([[np.cos(half), -np.sin(half)], [np.sin(half), np.cos(half)]])
        turned[name], turned[b_name] = turn_rr @ now[name], now[b_name] @ turn_rr.T
    host.put(flatten({name: value.astype(np.float32) for name, value in turned.items()}, host.layout.trained))


@pytest.mark.parametrize("method", [*sorted(METHODS), "refreshed"])
@pytest.mark.parametrize("schedule", ["constant", "linear"])
def test_one_site_with_plain_averaging_is_local_training(method: str, schedule: Any, tmp_path: Path) -> None:
    """Three rounds through plan, wire, seal and sum give the adapter of three rounds of local training."""
    host = host_of(method)
    start_P, frozen_F = host.take(), host.take(trained=False)
    # Turning and decomposing round once more, and AdamW's first steps make much of what is next to nothing.
    kind = (
        {"optim": "sgd", "learning_rate": 0.05} if method in {"fedrot", "hlora", "sketch"} else {"learning_rate": 1e-2}
    )
    training = TrainingConfig(steps_per_round=2, lr_scheduler_type=schedule, **kind)
    config = SimulationConfig(
        model=ModelConfig(source="x"), data=DataConfig(), adapter=adapter_of(method),
        privacy=PrivacyConfig(mode="none", sampling_rate=0.5), cohort=CohortConfig(minimum=1), rounds=3, seed=1,
        training=training,
        secure_sum=SecureSumConfig(field_bits=32, mode="off", update_clip=None if training.optim == "adamw" else 100.0),
    )  # fmt: skip
    base = Base(sha256=host.files.sha256, lora=host.lora_options, layout=host.layout)
    plan = make_plan(config, run="one", max_sites=1, base=base, labels=(), frozen_F=frozen_F, start_P=start_P)
    report = EncodingReport(records=16, truncated=0, tokens=0, tokens_cut=0, without_loss=0, longest=0, max_length=512)
    rules, ledger = Rules(allow_without_privacy=True, minimum_cohort=1, minimum_records=1), Ledger(tmp_path / "ledger")
    ledger.set_ceiling("h", epsilon=None, delta=1e-5)
    site = Site(
        name="only",
        encoder=LoraTraining(host=host, encoded=Encoded(records=records(), report=report), labels=()),
        consent=ByRules(rules), door=PlainDoor(name="only", rules=rules), journal=tmp_path / "journal.jsonl", chance=chance,
        purse=Purse(ledger, holding="h", fingerprint="f", units={"record": 16, "patient": None}, coordinator="c"),
    )  # fmt: skip
    coordinator = Coordinator(Memory(site), plan, timeout_s=1.0, listen=lambda _: None, sums=None)
    coordinator.propose(lambda: (start_P, frozen_F))

    federated_P = train(
        ServerState(adapter_P=start_P.astype(np.float64)), plan, first=1, attempts={}, spend_attempts=False,
        ask=coordinator.run, keep=lambda _: None,
    ).adapter_P  # fmt: skip

    ledger.close()
    rates = {"constant": [1.0, 1.0, 1.0], "linear": [1.0, 2 / 3, 1 / 3]}[schedule]
    local = host_of(method)
    for number, rate in enumerate(rates, start=1):
        specs, factor = trained_by_hand(method, local, number)
        before_P = local.take()
        with local.only(specs):
            train_round(
                local, records(), sampling_rate=0.5,
                training=replace(training, learning_rate=training.learning_rate * rate * factor), dp=None, randomness=SeededRandomness(bytes([number])),
            )  # fmt: skip
        if method == "fedrot":
            turn_by_hand(local, before_P, number)
        local.put(local.take())  # changes nothing, but that two of them start each round from a decomposition
    moved = np.abs(local.take() - start_P).max()
    assert moved > 1e-2
    # Float32 subtracts and adds again, the encoding rounds at 2**-31 of its range; AdamW enlarges both.
    assert np.abs(federated_P - local.take()).max() < 1e-4 * moved
