"""Where LoRA goes, how it starts, what is trained."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from partsong.client.data.batch import pad
from partsong.client.data.encode import Record
from partsong.client.model.host import ModelHost
from partsong.client.model.lora import lora_options, public_start
from partsong.client.model.start import PublicStart, base_weight
from partsong.common.adapters.adapter import flatten
from partsong.common.config import AdapterConfig
from partsong.common.errors import ModelError, Refused

MakeHost = Callable[..., ModelHost]
MakeRecords = Callable[..., tuple[Record, ...]]


@pytest.mark.parametrize(
    ("targets", "wrong", "close"),
    [
        (("q_porj",), "q_porj", "q_proj"),
        (("q_proj", "v_porj"), "v_porj", "v_proj"),
        (("query", "q_proj"), "query", None),
        (("proj",), "proj", None),
    ],
)
def test_each_target_has_to_match_a_layer(
    make_host: MakeHost, targets: tuple[str, ...], wrong: str, close: str | None
) -> None:
    """One right target does not excuse a wrong one; the closest name is offered."""
    with pytest.raises(ModelError, match=f"'{wrong}', which matches no linear layer") as caught:
        make_host(target_modules=targets)

    assert "some of down_proj, gate_proj" in str(caught.value)
    assert close is None or f"did you mean '{close}'?" in str(caught.value)


def test_a_target_outside_the_last_layers_is_refused(make_host: MakeHost) -> None:
    """`last_layers` may leave nothing of a target that exists; that would train less than was asked for."""
    assert make_host("tiny-bert", target_modules=("query", "pooler.dense"))

    with pytest.raises(ModelError, match=r"'pooler\.dense', which names no layer among those to be adapted"):
        make_host("tiny-bert", target_modules=("query", "pooler.dense"), last_layers=1)
    with pytest.raises(ModelError, match="'v_proj', which names no layer"):
        make_host(peft={"exclude_modules": ["v_proj"]})


def test_all_linear_reaches_every_linear_layer_but_the_head(make_host: MakeHost) -> None:
    """PEFT's own word is passed on."""
    names = {t.name.split(".")[-3] for t in make_host(target_modules=("all-linear",)).layout.tensors}

    assert names == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


@pytest.mark.parametrize("last", [1, 3, 4])
def test_last_layers_adapts_exactly_those(make_host: MakeHost, last: int) -> None:
    """Four layers, numbered from 0."""
    layers = {int(t.name.split(".layers.")[1].split(".")[0]) for t in make_host(last_layers=last).layout.tensors}

    assert layers == set(range(4 - last, 4))


def test_more_last_layers_than_there_are_is_refused(make_host: MakeHost) -> None:
    """Five of four."""
    with pytest.raises(ModelError, match=r"adapter\.last_layers: found 5, expected at most 4"):
        make_host(last_layers=5)


def test_rslora_is_passed_through(make_host: MakeHost) -> None:
    """Its scale is alpha / sqrt(r) instead of alpha / r."""
    scales = []
    for peft in ({}, {"use_rslora": True}):
        model: Any = make_host(r=4, lora_alpha=6.0, peft=peft).model
        scales.append({m.scaling["default"] for m in model.modules() if hasattr(m, "lora_B")})

    assert scales == [{6.0 / 4}, {6.0 / 2}]


def test_dora_is_refused_under_privacy_and_unknown_to_averaging_without_it() -> None:
    """Under DP by rule; otherwise because its magnitude would start at zero and never be averaged."""
    config = AdapterConfig(peft={"use_dora": True})

    with pytest.raises(Refused, match="dora_under_dp"):
        lora_options(config, task="causal_lm", num_layers=4, private=True)
    with pytest.raises(ModelError, match=r"adapter\.peft\.use_dora"):
        lora_options(config, task="causal_lm", num_layers=4, private=False)


@pytest.mark.parametrize(
    "peft",
    [
        {"init_lora_weights": "pissa"},
        {"init_lora_weights": "olora"},
        {"bias": "all"},
        {"lora_dropout": 0.1},
        {"modules_to_save": ["lm_head"]},
        {"layer_replication": [[0, 2], [1, 3]]},
        {"r": 4},
        {"task_type": "SEQ_CLS"},
        {"no_such_option": 1},
    ],
    ids=lambda p: next(iter(p)),
)
def test_options_that_break_a_promise_are_refused(make_host: MakeHost, peft: dict[str, Any]) -> None:
    """They would change base weights, bring chance into losses, or overwrite what has its own key."""
    with pytest.raises(ModelError, match="adapter"):
        make_host(peft=peft)


def test_the_same_options_switched_off_are_accepted(make_host: MakeHost) -> None:
    """Control: it is the value that is refused, not the name."""
    off = {"init_lora_weights": True, "use_dora": False, "bias": "none", "lora_dropout": 0.0}

    assert make_host(peft=off).layout == make_host().layout


@pytest.mark.parametrize("base", ["tiny-llama", "tiny-bert"])
def test_the_adapted_model_begins_as_the_base_model(base: str, make_host: MakeHost, make_records: MakeRecords) -> None:
    """B is zero, so logits with and without the adapter are equal; with B moved they differ."""
    host, records = make_host(base), make_records()
    batch = pad(records, pad_id=host.pad_id)
    model: Any = host.model
    with torch.no_grad():
        adapted = host._logits(batch)
        with model.disable_adapter():
            bare = host._logits(batch)
        host.put(host.take() + 0.5)
        moved = host._logits(batch)

    if base == "tiny-llama":  # without its adapter a classifier has another head
        assert torch.equal(adapted, bare)
    assert (adapted - moved).abs().max() > 1e-3


@pytest.mark.parametrize("base", ["tiny-llama", "tiny-bert"])
@pytest.mark.parametrize("method", ["ffa", "fedit"])
def test_the_start_depends_on_names_and_public_seed_only(base: str, method: str, make_host: MakeHost) -> None:
    """Another process, another torch seed: the same A and head; another public seed: others. B is zero."""
    torch.manual_seed(1)
    host = make_host(base, method=method)
    torch.manual_seed(2)
    again, other = make_host(base, method=method), make_host(base, method=method, seed=1)
    start = public_start(host.model, host.layout, AdapterConfig(r=2, lora_alpha=4.0, method=method))

    for trained in (True, False):
        specs = host.layout.trained if trained else host.layout.frozen
        assert (host.take(trained=trained) == again.take(trained=trained)).all()
        assert (host.take(trained=trained) == flatten(start, specs)).all()
    random = method == "fedit"
    assert (host.take(trained=random) != other.take(trained=random)).any()
    assert all(not value.any() for name, value in start.items() if ".lora_B." in name)
    assert len({value.tobytes() for name, value in start.items() if ".lora_A." in name}) == sum(
        ".lora_A." in name for name in start
    )


def test_base_weights_are_those_of_the_file(make_host: MakeHost) -> None:
    """Attaching an adapter changes no weight of the base."""
    weights = [make_host(peft=p).model.state_dict() for p in ({}, {"use_rslora": True})]
    base = {n: v for n, v in weights[0].items() if ".lora_" not in n}

    assert all(torch.equal(v, weights[1][n]) for n, v in base.items())


@pytest.mark.parametrize("a_init", ["orthonormal", "kaiming"])
def test_rows_of_a_are_orthonormal_where_asked_for(make_host: MakeHost, a_init: str) -> None:
    """A·Aᵀ is the identity for `orthonormal`, and not for `kaiming`, whose entries keep to their bound."""
    host = make_host(a_init=a_init, r=8)
    start = public_start(host.model, host.layout, AdapterConfig(r=8, a_init=a_init))

    for name, a_rI in start.items():
        if ".lora_A." in name:
            gap = np.abs(a_rI @ a_rI.T - np.eye(8)).max()
            assert gap < 1e-6 if a_init == "orthonormal" else gap > 0.1
            assert a_init == "orthonormal" or np.abs(a_rI).max() <= 1 / np.sqrt(96)


def test_orthonormal_rows_are_uniform_over_directions() -> None:
    """With the signs of the factorisation fixed, entries have mean 0 and variance 1 / I; without, the first has not."""

    def drawn(seed: int) -> np.ndarray:
        start = PublicStart(AdapterConfig(seed=seed), lambda layer: pytest.fail(f"no weight of {layer} is needed"))
        return start.tensor("q.lora_A.weight", (2, 6))

    entries = np.array([drawn(seed)[0, 0] for seed in range(400)], np.float64)

    assert abs(entries.mean()) < 5 * np.sqrt(1 / 6 / 400)
    assert entries.var() == pytest.approx(1 / 6, rel=0.3)


def test_a_basis_from_the_base_weights_is_their_best_of_its_rank(make_host: MakeHost) -> None:
    """B·Bᵀ·W and W·Aᵀ·A are both the truncated decomposition of W, and the start is the same in another process."""
    host, again = (make_host(method="fedsb", a_init="public_svd", r=4) for _ in range(2))
    start = public_start(host.model, host.layout, AdapterConfig(method="fedsb", a_init="public_svd", r=4))
    assert (host.take(trained=False) == again.take(trained=False)).all()
    assert not host.take().any()

    for name in [name for name in start if ".lora_A." in name]:
        layer = name.partition(".lora_A.")[0]
        weight_OI, basis_Or = base_weight(host.model, layer), start[f"{layer}.lora_B.basis.weight"].astype(np.float64)
        a_rI = start[name].astype(np.float64)
        tail = np.linalg.norm(np.linalg.svd(weight_OI, compute_uv=False)[4:])
        for nearest_OI in (basis_Or @ basis_Or.T @ weight_OI, weight_OI @ a_rI.T @ a_rI):
            assert np.linalg.norm(weight_OI - nearest_OI) == pytest.approx(tail, rel=1e-5)


def test_each_stretch_has_a_frame_of_its_own(make_host: MakeHost) -> None:
    """Rank 2 in three stretches is rank 6 at the scale of rank 2: three orthonormal pairs of rows, all different."""
    host = make_host(r=2, lora_alpha=4.0, refresh=3)

    assert (host.lora_options["r"], host.lora_options["lora_alpha"]) == (6, 12.0)
    start = public_start(host.model, host.layout, AdapterConfig(r=2, lora_alpha=4.0, refresh=3))
    a_RI = next(value for name, value in start.items() if ".lora_A." in name)
    gram = (a_RI @ a_RI.T).reshape(3, 2, 3, 2)
    assert all(gram[k, :, k] == pytest.approx(np.eye(2), abs=1e-6) for k in range(3))
    assert np.abs(gram[0, :, 1]).max() > 1e-3
    assert sum(".lora_B.blocks.2." in t.name for t in host.layout.trained) == sum(".lora_A." in n for n in start)


@pytest.mark.parametrize("private", [True, False])
def test_a_basis_from_records_is_refused_by_name(*, private: bool) -> None:
    """Fed-SB's own start, the decomposition of a gradient on private records, with or without privacy."""
    with pytest.raises(Refused, match="a basis fitted to records carries them unclipped"):
        lora_options(
            AdapterConfig(method="fedsb", a_init="private_gradient"), task="causal_lm", num_layers=4, private=private
        )


def test_stretches_are_for_plain_lora(make_host: MakeHost) -> None:
    """A scale that is not alpha / r would change with every stretch."""
    assert make_host(refresh=2)

    with pytest.raises(ModelError, match=r"adapter\.refresh"):
        make_host(refresh=2, peft={"use_rslora": True})
