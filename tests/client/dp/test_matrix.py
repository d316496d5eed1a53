"""Per-record norms and clipped sums equal those of one record at a time, over the kinds of model that occur."""

import contextlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import BertConfig, BertForSequenceClassification

from partsong.client.dp.clipping import clip_weights
from partsong.client.dp.engine import private_stepper
from partsong.client.model.lora import keep_head_in_float32

EVERYWHERE = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def checkpointing(*, reentrant: bool) -> Callable[[nn.Module], None]:
    def enable(model: nn.Module) -> None:
        base = model.get_base_model()
        base.activation_checkpointing_enable({"use_reentrant": reentrant})
        if reentrant:
            base.enable_input_require_grads()

    return enable


def bfloat16_base(model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        if "lora" not in name:
            parameter.data = parameter.data.bfloat16()


def reuse_first_layer(model: nn.Module) -> None:
    layers = model.get_submodule("base_model.model.model.layers")
    layers[1] = layers[0]


def freeze_first_layer(model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        if ".layers.0." in name:
            parameter.requires_grad_(False)


def train_last_norm(model: nn.Module) -> None:
    model.get_base_model().model.norm.weight.requires_grad_(True)


def train_output_head(model: nn.Module) -> None:
    model.get_base_model().lm_head.weight.requires_grad_(True)


def sequence_and_lm_head(model: nn.Module) -> None:
    assert any("lm_head" in n for n, p in model.named_parameters() if p.requires_grad)


@dataclass
class Case:
    """One row of the matrix."""

    model: dict[str, Any] = field(default_factory=dict)
    prepare: Callable[[nn.Module], None] = lambda _model: None
    side: str = "right"
    lengths: tuple[int, ...] = (9, 3, 6, 2, 7)
    autocast: bool = False
    hooks: bool = True
    linear: bool = True
    tolerance: float = 1e-5


CASES = {
    "sdpa": Case(),
    "eager": Case(model={"attn_implementation": "eager"}),
    "left padding": Case(side="left"),
    "equal lengths": Case(lengths=(6, 6, 6)),
    "one token to learn": Case(lengths=(2, 2, 9)),
    "untied": Case(model={"tie_word_embeddings": False}),
    "no grouping of heads": Case(model={"num_key_value_heads": 4}),
    "every linear": Case(model={"peft": {"target_modules": EVERYWHERE, "r": 8}}),
    "rank-stabilised": Case(model={"peft": {"use_rslora": True}}),
    "frozen A": Case(model={"ffa": True}),
    "bias in B": Case(model={"peft": {"lora_bias": True}, "attention_bias": True}),
    "output head": Case(
        model={"peft": {"target_modules": ["q_proj", "lm_head"]}, "tie_word_embeddings": False},
        prepare=sequence_and_lm_head,
    ),
    "whole output head": Case(prepare=train_output_head, model={"tie_word_embeddings": False}),
    "trained norm": Case(prepare=train_last_norm, linear=False),
    "frozen first layer": Case(prepare=freeze_first_layer),
    "frozen first layer and A": Case(prepare=freeze_first_layer, model={"ffa": True}),
    "layer used twice": Case(prepare=reuse_first_layer),
    "checkpointing, re-entrant": Case(prepare=checkpointing(reentrant=True)),
    "checkpointing, not re-entrant": Case(prepare=checkpointing(reentrant=False), hooks=False),
    "checkpointing, frozen A": Case(prepare=checkpointing(reentrant=False), model={"ffa": True}, hooks=False),
    "autocast": Case(autocast=True, tolerance=2e-2),
    "autocast, re-entrant": Case(autocast=True, prepare=checkpointing(reentrant=True), tolerance=2e-2),
    "autocast, checkpointing": Case(autocast=True, prepare=checkpointing(reentrant=False), hooks=False, tolerance=2e-2),
    "bfloat16 base": Case(prepare=bfloat16_base, tolerance=3e-2),
}

COMBINATIONS = [
    pytest.param(case, engine, id=f"{name} - {engine}")
    for name, case in CASES.items()
    for engine in ("flat", "books", "hooks")
    if (case.hooks if engine == "hooks" else case.linear)
]


@pytest.mark.parametrize(("case", "engine"), COMBINATIONS)
def test_gradients_per_record_are_those_of_one_record_at_a_time(kit, case: Case, engine: str) -> None:
    """Norms and clipped sum agree to float32 rounding, or to that of bfloat16 where the pass uses it."""
    model, batch = kit.tiny(**case.model), kit.unequal(case.lengths, side=case.side)
    case.prepare(model)
    autocast = torch.autocast("cpu", torch.bfloat16) if case.autocast else contextlib.nullcontext()

    def losses(model, batch):
        with autocast, warnings.catch_warnings():
            warnings.filterwarnings("ignore", "None of the inputs have requires_grad")
            return kit.losses(model, batch)

    rows = kit.loop(model, batch, losses)
    clip = float(rows.norm(dim=1).median())
    expected = clip_weights(rows.norm(dim=1), clip_norm=clip, clipping="abadi") @ rows
    optimizer = torch.optim.SGD(kit.trainable(model), lr=0.1)
    settings = kit.settings(clip_norm=clip, engine="hooks" if engine == "hooks" else "flat")
    stepper = private_stepper(model, optimizer, settings, buffer_limit_bytes=0 if engine == "books" else 1 << 30)
    seen = []
    norms = stepper._gradients.norms
    stepper._gradients.norms = lambda: seen.append(norms()) or seen[-1]

    stepper.accumulate(losses(model, batch))

    assert (stepper._optimizer.sum_P - expected).norm() < case.tolerance * expected.norm()
    torch.testing.assert_close(seen[0], rows.norm(dim=1), rtol=case.tolerance, atol=0)
    assert case.tolerance < 1e-4 or stepper._optimizer.sum_P.norm() > 0.1 * clip


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)])
@pytest.mark.parametrize("engine", ["flat", "hooks"])
def test_an_encoder_with_a_class_label_is_covered_too(kit, engine: str, dtype: torch.dtype, tolerance: float) -> None:
    """A small BERT with LoRA, a head that is trained, and one class per record."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=97, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, num_labels=3
    )
    base = BertForSequenceClassification(config).to(dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        options = LoraConfig(r=4, target_modules=["query", "value"], lora_dropout=0.0, task_type="SEQ_CLS")
        model = get_peft_model(base, options)
    keep_head_in_float32(model)
    for parameter in kit.trainable(model):
        nn.init.normal_(parameter, std=0.3)
    for module in model.train().modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0

    def losses(model, batch):
        logits = model(input_ids=batch.tokens, attention_mask=batch.mask).logits
        return nn.functional.cross_entropy(logits, batch.tokens[:, 0] % 3, reduction="none")

    batch = kit.unequal()
    rows = kit.loop(model, batch, losses)
    clip = float(rows.norm(dim=1).median())
    expected = clip_weights(rows.norm(dim=1), clip_norm=clip, clipping="abadi") @ rows
    optimizer = torch.optim.SGD(kit.trainable(model), lr=0.1)
    stepper = private_stepper(model, optimizer, kit.settings(clip_norm=clip, engine=engine))

    stepper.accumulate(losses(model, batch))

    assert any("classifier" in name for name, p in model.named_parameters() if p.requires_grad)
    assert (stepper._optimizer.sum_P - expected).norm() < tolerance * expected.norm()


def test_a_wrong_gradient_would_be_seen(kit) -> None:
    """The control: leaving one record out of the reference moves the sum by far more than the tolerances."""
    model, batch = kit.tiny(), kit.unequal()
    rows = kit.loop(model, batch)

    full, short = rows.sum(0), rows[:-1].sum(0)

    assert (full - short).norm() > 0.1 * full.norm()
