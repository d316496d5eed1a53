"""Tiny Llamas with adapters, batches of unequal records, and the microbatch loop as the second source."""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from partsong.client.dp.settings import DpSettings

VOCABULARY, PAD = 97, 0


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Two cores are shared with other tests."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


def tiny(*, peft: dict[str, Any] | None = None, ffa: bool = False, **config: Any) -> nn.Module:
    """A random Llama (grouped-query attention, tied embeddings) with non-zero LoRA weights, in train mode."""
    torch.manual_seed(0)
    base = LlamaForCausalLM(
        LlamaConfig(
            **{
                "vocab_size": VOCABULARY,
                "hidden_size": 32,
                "intermediate_size": 48,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
                "max_position_embeddings": 64,
                "tie_word_embeddings": True,
                "pad_token_id": PAD,
            }
            | config
        )
    )
    options = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"], "lora_dropout": 0.0} | (peft or {})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PEFT asks transformers for an attribute by its old name
        model = get_peft_model(base, LoraConfig(**options))
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, std=0.3)
        if ffa and "lora_A" in name:
            parameter.requires_grad_(False)
    return model.train()


@dataclass
class Batch:
    """Tokens, mask and labels, (B, T) each; -100 is not learned."""

    tokens: torch.Tensor
    mask: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.tokens)

    def take(self, index: Any) -> "Batch":
        return Batch(self.tokens[index], self.mask[index], self.labels[index])


def unequal(lengths: tuple[int, ...] = (9, 3, 6, 2, 7), *, side: str = "right") -> Batch:
    """Random records of these lengths, padded on one side."""
    generator = torch.Generator().manual_seed(1)
    width = max(lengths)
    tokens = torch.full((len(lengths), width), PAD)
    mask = torch.zeros_like(tokens)
    for row, length in enumerate(lengths):
        place = slice(0, length) if side == "right" else slice(width - length, width)
        tokens[row, place] = torch.randint(1, VOCABULARY, (length,), generator=generator)
        mask[row, place] = 1
    labels = tokens.masked_fill(mask == 0, -100)
    labels[torch.arange(len(lengths)), mask.argmax(dim=1)] = -100  # nothing real stands before the first token
    return Batch(tokens, mask, labels)


def losses(model: nn.Module, batch: Batch) -> torch.Tensor:
    """Mean token loss of each record, (B,)."""
    logits = model(input_ids=batch.tokens, attention_mask=batch.mask, use_cache=False).logits.float()
    token_loss = nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), batch.labels[:, 1:].flatten(), ignore_index=-100, reduction="none"
    ).view(len(batch), -1)
    return token_loss.sum(1) / (batch.labels[:, 1:] != -100).sum(1).clamp(min=1)


def trainable(model: nn.Module) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.requires_grad]


def loop(model: nn.Module, batch: Batch, loss: Callable[..., torch.Tensor] = losses) -> torch.Tensor:
    """Gradients of each record by itself, (B, P): the reference."""
    rows = []
    for index in range(len(batch)):
        loss(model, batch.take([index])).sum().backward()
        rows.append(torch.cat([p.grad.flatten().float() for p in trainable(model)]))
        model.zero_grad()
    return torch.stack(rows)


def settings(**changes: Any) -> DpSettings:
    return DpSettings(
        **{
            "clip_norm": 1.0,
            "clipping": "abadi",
            "noise_multiplier": 1.0,
            "sampling_rate": 0.1,
            "expected_batch": 5.0,
            "loss_clip": 8.0,
            "loss_noise_multiplier": 4.0,
            "engine": "flat",
        }
        | changes
    )


@dataclass
class Kit:
    """What the tests build with."""

    tiny = staticmethod(tiny)
    unequal = staticmethod(unequal)
    losses = staticmethod(losses)
    loop = staticmethod(loop)
    settings = staticmethod(settings)
    trainable = staticmethod(trainable)


@pytest.fixture
def kit() -> Kit:
    """Builders, since test modules do not import one another."""
    return Kit()
