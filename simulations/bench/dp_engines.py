"""The ways of one private step that the benchmark compares, each attached to a model and taken off again.

B records, T tokens.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from opacus.grad_sample import prepare_module
from opacus.optimizers import DPOptimizer, DPOptimizerFastGradientClipping
from opacus.utils.fast_gradient_clipping_utils import DPTensorFastGradientClipping
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from partsong.client.dp.engine import DpSettings, Stepper, private_stepper

EngineName = Literal["plain", "flat", "books", "hooks", "ghost"]
"""plain: PEFT without privacy. flat, books: this package. hooks, ghost: Opacus as it comes."""

Pass = Callable[[torch.Tensor, bool], None]
"""Takes the loss of each record, with graph, and whether this is the last pass of the logical batch: then it steps."""

EVERY_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """A model, an adapter and a batch."""

    name: str
    targets: tuple[str, ...]
    rank: int
    records: int
    """Of one pass."""
    tokens: int
    passes: int = 4
    """Of one logical batch. Noise is drawn once for all of them."""
    layers: int = 30
    hidden: int = 576
    intermediate: int = 1536
    heads: int = 9
    key_value_heads: int = 3
    vocabulary: int = 49_152


QV_R8 = Shape(name="qv_r8", targets=("q_proj", "v_proj"), rank=8, records=4, tokens=64)
ALL_R16 = Shape(name="all_r16", targets=EVERY_LINEAR, rank=16, records=4, tokens=128)
"""SmolLM2-135M in shape, with random weights: time and memory do not depend on them."""


def make_model(shape: Shape, *, device: str) -> nn.Module:
    """Build the model with its adapter, in train mode; a bfloat16 base on a GPU."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.key_value_heads,
        tie_word_embeddings=True,
    )
    base = LlamaForCausalLM(config).to(device, torch.float32 if device == "cpu" else torch.bfloat16)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PEFT asks transformers for an attribute by its old name
        model: nn.Module = get_peft_model(base, LoraConfig(r=shape.rank, target_modules=list(shape.targets)))
    return model.train()


def make_batch(shape: Shape, *, device: str) -> torch.Tensor:
    """Draw (B, T) tokens; 0 pads records that are between half as long and as long as T."""
    generator = torch.Generator().manual_seed(0)
    tokens_BT = torch.randint(1, shape.vocabulary, (shape.records, shape.tokens), generator=generator)
    lengths_B = torch.randint(shape.tokens // 2, shape.tokens + 1, (shape.records, 1), generator=generator)
    return tokens_BT.masked_fill(torch.arange(shape.tokens) >= lengths_B, 0).to(device)


def losses(model: nn.Module, tokens_BT: torch.Tensor) -> torch.Tensor:
    """Mean token loss of each record, (B,)."""
    logits = model(input_ids=tokens_BT, attention_mask=(tokens_BT != 0).long(), use_cache=False).logits
    labels = tokens_BT[:, 1:].masked_fill(tokens_BT[:, 1:] == 0, -100)
    token_loss = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels.flatten(), reduction="none")
    return token_loss.view(labels.shape).sum(1) / (labels != -100).sum(1)


@contextmanager
def attached(engine: EngineName, model: nn.Module, *, records: int) -> Iterator[Pass]:
    """Attach one engine for the time of a block."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5)
    if engine == "plain":
        yield _plain(optimizer)
    elif engine in ("flat", "books"):
        stepper = private_stepper(
            model, optimizer, _settings(records), buffer_limit_bytes=0 if engine == "books" else 1 << 40
        )
        yield _private(stepper)
        stepper.close()
    else:
        with _opacus(engine, model, optimizer, records) as one_pass:
            yield one_pass


def _private(stepper: Stepper) -> Pass:
    def one_pass(loss_B: torch.Tensor, last: bool) -> None:  # noqa: FBT001 - the face of all engines
        stepper.accumulate(loss_B)
        if last:
            stepper.step()

    return one_pass


def _plain(optimizer: torch.optim.Optimizer) -> Pass:
    def one_pass(loss_B: torch.Tensor, last: bool) -> None:  # noqa: FBT001 - the face of all engines
        torch.autograd.backward(loss_B.mean())
        if last:
            optimizer.step()
            optimizer.zero_grad()

    return one_pass


@contextmanager
def _opacus(engine: str, model: nn.Module, optimizer: torch.optim.Optimizer, records: int) -> Iterator[Pass]:
    """Attach Opacus' own hooks, optimizer and noise."""
    extra = {"max_grad_norm": 1.0} if engine == "ghost" else {}
    hooks = prepare_module(model, engine, wrap_model=False, batch_first=True, loss_reduction="sum", **extra)
    kind = DPOptimizerFastGradientClipping if engine == "ghost" else DPOptimizer
    private: Any = kind(optimizer, noise_multiplier=1.0, max_grad_norm=1.0, expected_batch_size=records)

    def one_pass(loss_B: torch.Tensor, last: bool) -> None:  # noqa: FBT001 - the face of all engines
        private.signal_skip_step(not last)
        if engine == "ghost":
            DPTensorFastGradientClipping(hooks, private, loss_B[:, None], "sum").backward()
        else:
            torch.autograd.backward(loss_B.sum())
        private.step()
        private.zero_grad()

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Full backward hook is firing")
        yield one_pass
    hooks.cleanup()
    for parameter in private.params:
        del parameter.summed_grad
        parameter.grad = None


def _settings(records: int) -> DpSettings:
    return DpSettings(
        clip_norm=1.0,
        clipping="abadi",
        noise_multiplier=1.0,
        sampling_rate=0.05,
        expected_batch=float(records),
        loss_clip=8.0,
        loss_noise_multiplier=4.0,
        engine="flat",
    )
