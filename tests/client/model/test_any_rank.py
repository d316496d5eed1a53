"""A host that takes and gives whole products, trained at ranks that sites choose."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from partsong.client.data.encode import Encoded, Record
from partsong.client.dp.sampler import SeededRandomness
from partsong.client.encoders.encoder import LocalRound
from partsong.client.encoders.lora import LoraTraining
from partsong.client.model.any_rank import AnyRankHost
from partsong.client.model.host import ModelHost
from partsong.client.training.train import train_round
from partsong.common.adapters.adapter import flatten, unflatten
from partsong.common.adapters.aggregation import relative
from partsong.common.adapters.lora import products
from partsong.common.config import AdapterConfig, TrainingConfig
from partsong.common.errors import ConfigError
from partsong.common.plan import Plan

RANK = 3
MakeHost = Callable[..., ModelHost]
SEED = bytes(32)
ADAPTER = AdapterConfig(method="hlora", r=RANK, lora_alpha=6.0)


def start_of(host: AnyRankHost) -> np.ndarray:
    """An adapter of the plan's rank, as the host exchanges it: both factors at random."""
    rng = np.random.default_rng(6)
    with torch.no_grad():
        for factor in host.trainable():
            factor.copy_(torch.from_numpy(0.2 * rng.standard_normal(tuple(factor.shape))))
    return host.take()


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


def test_sketches_stand_for_the_product_they_are_taken_of(make_host: MakeHost, host: AnyRankHost) -> None:
    """A host that exchanges sketches starts from the same factors, up to rounding, and sends fewer numbers."""
    narrow = make_host(method="sketch", r=RANK, sketch=2 * RANK, lora_alpha=6.0)
    assert isinstance(narrow, AnyRankHost)
    whole_P = of_rank(host, RANK, seed=8)
    host.put(whole_P)
    public, tensors = unflatten(narrow.take(trained=False), narrow.layout.frozen), {}
    for name, whole in unflatten(whole_P, host.layout.trained).items():
        stem = name.removesuffix("product.weight")
        omega, psi = public[f"{stem}omega.weight"], public[f"{stem}psi.weight"]
        tensors |= {f"{stem}range.weight": whole @ omega.T, f"{stem}corange.weight": psi @ whole}
    sketched_P = flatten(tensors, narrow.layout.trained)

    narrow.put(sketched_P)

    assert sketched_P.size < whole_P.size
    assert narrow.take() == pytest.approx(sketched_P, abs=1e-4)
    for ours, theirs in zip(narrow.trainable()[::2], host.trainable()[::2], strict=True):
        gram, other = (a.detach().numpy().T @ a.detach().numpy() for a in (ours, theirs))
        assert gram == pytest.approx(other, abs=1e-3)  # the same rows, whatever their signs


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


@pytest.mark.parametrize("method", ["hlora", "sketch"])
def test_the_mean_of_sites_of_different_ranks_is_the_mean_of_their_products(
    make_host: MakeHost,
    make_records: Callable[..., tuple[Record, ...]],
    make_encoded: Callable[..., Encoded],
    make_site_plan: Callable[..., Plan],
    method: Any,
) -> None:
    """Ranks 1, 2 and 3 from one product: what is sent is the site's product less the global one, to 1e-6.

    So it is of sketches, which at a width of 1 + 2 + 3 give the mean product back.
    """
    width = {"hlora": 0, "sketch": 6}[method]
    host = make_host(method=method, r=RANK, sketch=width, lora_alpha=6.0)
    assert isinstance(host, AnyRankHost)
    plan = make_site_plan(host, adapter=AdapterConfig(method=method, r=RANK, sketch=width, lora_alpha=6.0))
    host.put(start_of(host))
    whole_P, frozen_F = host.take(), host.take(trained=False)
    frozen = unflatten(frozen_F, host.layout.frozen)

    def products_of(vector_P: np.ndarray) -> np.ndarray:
        tensors = frozen | unflatten(vector_P, host.layout.trained)
        return np.concatenate([one.ravel() for one in products(tensors).values()])

    updates, ended = [], []
    for rank in (1, 2, 3):
        records = make_records((7, 9, 5), seed=rank)
        site = LoraTraining(host=host, encoded=make_encoded(records), labels=(), rank=rank)
        update = site.encode(LocalRound(
            plan=plan, number=1, frozen_F=frozen_F, adapter_P=whole_P, randomness=SeededRandomness(SEED), on_step=lambda _: None
        ))  # fmt: skip
        updates.append(update.update_P.astype(float))
        ended.append(products_of(host.take()))

    mean_P = whole_P + np.mean(updates, axis=0)

    exact = np.mean(ended, axis=0)
    assert relative(products_of(mean_P), exact) < (1e-6 if method == "hlora" else 1e-4)  # sent in float32
    assert all(relative(one, exact) > 1e-2 for one in ended)
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
