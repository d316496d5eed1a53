"""A host that takes and gives whole products, trained at ranks that sites choose."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from partsong.client.data.encode import Encoded, Record
from partsong.client.dp.sampler import SeededRandomness
from partsong.client.encoders.lora import LoraTraining
from partsong.client.model.any_rank import AnyRankHost
from partsong.client.model.host import ModelHost
from partsong.client.training.train import train_round
from partsong.common.adapters.adapter import unflatten
from partsong.common.config import AdapterConfig, TrainingConfig
from partsong.common.errors import ConfigError
from partsong.common.plan import Plan

RANK = 3
MakeHost = Callable[..., ModelHost]
SEED = bytes(32)
ADAPTER = AdapterConfig(method="hlora", r=RANK, lora_alpha=6.0)


@pytest.fixture
def host(make_host: MakeHost) -> AnyRankHost:
    found = make_host(method="hlora", r=RANK, lora_alpha=6.0)
    assert isinstance(found, AnyRankHost)
    return found


def of_rank(host: ModelHost, rank: int, seed: int) -> np.ndarray:
    """Products of random factors, in the order of the layout."""
    rng = np.random.default_rng(seed)
    parts = [
        0.1 * rng.standard_normal((s.shape[0], rank)) @ rng.standard_normal((rank, s.shape[1]))
        for s in host.layout.trained
    ]
    return np.concatenate([part.ravel() for part in parts]).astype(np.float32)


def layers(host: ModelHost, vector_P: np.ndarray) -> list[np.ndarray]:
    return list(unflatten(vector_P, host.layout.trained).values())


def test_the_layout_has_products_and_public_rows(host: AnyRankHost, make_host: MakeHost) -> None:
    """One product a layer, as large as its base weight; A stays what the public seed drew."""
    plain = make_host(method="ffa", r=RANK, lora_alpha=6.0)

    names = [spec.name.rpartition(".lora_")[2] for spec in host.layout.trained]

    assert set(names) == {"B.product.weight"}
    assert host.layout.frozen == plain.layout.frozen
    np.testing.assert_array_equal(host.take(trained=False), plain.take(trained=False))
    assert not host.take().any()


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32 - 1), rank=st.integers(1, RANK))
def test_a_product_of_no_more_than_the_rank_is_given_back(host: AnyRankHost, seed: int, rank: int) -> None:
    """To float32's rounding, whatever its own rank."""
    whole_P = of_rank(host, rank, seed)

    host.put(whole_P)

    assert host.take() == pytest.approx(whole_P, abs=1e-5)


def test_a_smaller_rank_starts_from_the_best_approximation(host: AnyRankHost) -> None:
    """Against singular values; the rows beyond it are zero, in both factors."""
    whole_P = of_rank(host, RANK, seed=4)
    host.choose(1)

    host.put(whole_P)

    for found, whole in zip(layers(host, host.take()), layers(host, whole_P), strict=True):
        tail = np.linalg.svd(whole.astype(float), compute_uv=False)[1:]
        assert np.linalg.norm(found - whole) == pytest.approx(np.linalg.norm(tail), rel=1e-4)
        assert np.linalg.matrix_rank(found, tol=1e-5) == 1
    assert not any(factor.detach()[1:].any() for factor in host.trainable()[::2])


def test_more_than_the_plan_has_is_the_plan_s(host: AnyRankHost) -> None:
    """A site cannot train more than is published."""
    host.choose(100)

    assert host.rank == RANK


@pytest.mark.parametrize("optim", ["adamw", "sgd"])
def test_a_rank_below_the_plan_s_trains_as_a_model_of_that_rank(
    host: AnyRankHost, make_host: MakeHost, make_records: Callable[..., tuple[Record, ...]], optim: Any
) -> None:
    """Against plain LoRA of rank 1 with the same first row and the same scale; rank 2 is another model."""
    training = TrainingConfig(steps_per_round=3, optim=optim, learning_rate=0.05)
    alone = make_host(method="fedit", r=1, lora_alpha=2.0)  # alpha / r as in the host

    def trained(some: ModelHost) -> None:
        train_round(
            some, make_records(), sampling_rate=0.7, training=training, dp=None, randomness=SeededRandomness(SEED)
        )

    found = {}
    for rank in (1, 2):
        host.choose(rank)
        host.put(np.zeros(host.layout.size(trained=True), np.float32))
        trained(host)
        found[rank] = host.take()
    first_rows = unflatten(host.take(trained=False), host.layout.frozen)
    factors = unflatten(alone.take(), alone.layout.trained)
    start = {name: first_rows[name][:1] if ".lora_A." in name else value for name, value in factors.items()}
    alone.put(np.concatenate([value.ravel() for value in start.values()]))
    trained(alone)

    after = unflatten(alone.take(), alone.layout.trained)
    names = [name.removesuffix(".lora_B.product.weight") for name in (s.name for s in host.layout.trained)]
    expected = [after[f"{n}.lora_B.weight"] @ after[f"{n}.lora_A.weight"] for n in names]
    reach = max(np.abs(one).max() for one in expected)
    assert reach > 1e-4
    for ours, theirs in zip(layers(host, found[1]), expected, strict=True):
        assert np.abs(ours - theirs).max() < 1e-4 * reach
    assert np.abs(found[1] - found[2]).max() > 1e-2 * reach


def test_the_mean_of_sites_of_different_ranks_is_the_mean_of_their_products(
    host: AnyRankHost,
    make_records: Callable[..., tuple[Record, ...]],
    make_encoded: Callable[..., Encoded],
    make_site_plan: Callable[..., Plan],
) -> None:
    """Ranks 1, 2 and 3 from one product: what is sent is the site's product less the global one, to 1e-6."""
    plan = make_site_plan(host, adapter=ADAPTER)
    whole_P, frozen_F = of_rank(host, RANK, seed=6), host.take(trained=False)
    updates, products = [], []
    for rank in (1, 2, 3):
        records = make_records((7, 9, 5), seed=rank)
        site = LoraTraining(host=host, encoded=make_encoded(records), labels=(), rank=rank)
        update = site.encode(
            plan, number=1, frozen_F=frozen_F, adapter_P=whole_P, randomness=SeededRandomness(SEED), on_step=lambda _: None
        )  # fmt: skip
        updates.append(update.update_P.astype(float))
        products.append(host.take())
        assert all(np.linalg.matrix_rank(one, tol=1e-5) <= rank for one in layers(host, products[-1]))

    mean_P = whole_P + np.mean(updates, axis=0)

    assert mean_P == pytest.approx(np.mean(products, axis=0), abs=1e-6)
    assert max(np.linalg.matrix_rank(one, tol=1e-5) for one in layers(host, mean_P)) > RANK
    assert host.rank == RANK  # for whoever scores the next adapter on this host


def test_privacy_terms_are_refused(
    host: AnyRankHost, make_site_plan: Callable[..., Plan], make_dp: Callable[..., Any]
) -> None:
    """Where a run is configured, and in a plan that somebody else has made."""
    with pytest.raises(ConfigError, match="noise times noise"):
        make_site_plan(host, adapter=ADAPTER, privacy={"mode": "dp", "delta": 1e-3})
    plan = make_site_plan(host, adapter=ADAPTER)
    with pytest.raises(ValueError, match="hlora without differential privacy"):
        dataclasses.replace(plan, dp=make_dp(sampling_rate=plan.sampling_rate), seed=None)
