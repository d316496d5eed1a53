"""One resident base model and one set of adapter tensors that are swapped in place.

Shape letters: B records of a pass, T tokens, K kept positions, V vocabulary, P trained and F frozen adapter parameters.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from partsong.client.data.batch import Batch
from partsong.client.data.tokens import IntVec
from partsong.client.model.lora import layout_of, public_parameters
from partsong.client.model.source import BaseFiles
from partsong.common.adapters.adapter import AdapterLayout, FloatVec, TensorSpec, flatten, unflatten

IGNORED = -100

NO_LIMIT = 1 << 30
"""Records of a pass: more than any."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """What the model makes of some records, record by record. Stays where the records are."""

    loss_N: NDArray[np.float64]
    """Mean over a record's loss positions [nats]."""
    hit_N: NDArray[np.bool_]
    """Every predicted token is right under teacher forcing (so greedy decoding gives exactly the completion), or
    the class is right. A record with nothing to predict is no hit."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged(Scores):
    """Scores, and what a classifier said. Stays where the records are."""

    guess_N: NDArray[np.int64]
    """The likeliest class; -1 where the model is none that classifies."""
    confidence_N: NDArray[np.float64]
    """Its probability; 0 where there is none."""


class ModelHost:
    """The base model of this process, with an adapter on it.

    Guarantees:
        - the base weights never require gradients and never change;
        - dropout is off in every mode: what a record contributes does not depend on chance;
        - `loss_B` of a record does not depend on the other records of its pass.
    """

    def __init__(
        self, *, model: nn.Module, tokenizer: Any, files: BaseFiles, device: torch.device, options: dict[str, Any]
    ) -> None:
        """Take over a model that `load` has prepared.

        `largest_pass` is the number of records that training found to fit into memory; it has no limit at first.
        """
        self.model, self.tokenizer, self.files, self.device, self.lora_options = (
            model,
            tokenizer,
            files,
            device,
            options,
        )
        self.layout: AdapterLayout = layout_of(model)
        self._tensors = public_parameters(model)
        self._selected = self.layout.trained
        config: Any = model.config
        self.is_classifier = options["task_type"] == "SEQ_CLS"
        self._keeps_logits = "logits_to_keep" in inspect.signature(_inner(model).forward).parameters
        self.largest_pass = NO_LIMIT
        self.name, self.num_layers = files.name, int(getattr(config, "num_hidden_layers", 0))

    @property
    def pad_id(self) -> int:
        """Token that fills a pass to its longest record."""
        return int(self.tokenizer.pad_token_id)

    def trainable(self) -> list[nn.Parameter]:
        """The parameters that are trained now, in layout order."""
        return [self._tensors[t.name] for t in self._selected]

    @contextmanager
    def only(self, specs: tuple[TensorSpec, ...]) -> Iterator[None]:
        """Let a part of the trained tensors be trained, for the time of a block; the others keep their values.

        Args:
            specs: some of `layout.trained`, in its order.
        """
        self._select(specs)
        try:
            yield
        finally:
            self._select(self.layout.trained)

    def take_selected(self) -> FloatVec:
        """Read what is trained now, (Q,) float32; the same as `take` outside of `only`."""
        return self._read(self._selected)

    def put_selected(self, vector_Q: FloatVec) -> None:
        """Write what is trained now; the inverse of `take_selected`."""
        self._write(vector_Q, self._selected)

    def take(self, *, trained: bool = True) -> FloatVec:
        """Read the adapter as a vector of P (or F) float32 numbers."""
        return self._read(self.layout.trained if trained else self.layout.frozen)

    def put(self, vector: FloatVec, *, trained: bool = True) -> None:
        """Write the adapter from a vector of P (or F) numbers; the inverse of `take`."""
        self._write(vector, self.layout.trained if trained else self.layout.frozen)

    @contextmanager
    def training(self) -> Iterator[nn.Module]:
        """The model in training mode, for the time of a block."""
        self.model.train()
        try:
            yield self.model
        finally:
            self.model.eval()

    def loss_B(self, batch: Batch) -> Tensor:
        """Loss of each record of a pass, (B,) float32 with its graph.

        Causal: mean over the record's own loss positions, never over the pass (a mean over the pass would make one
        record's gradient depend on the lengths of the others). A record without loss positions has loss 0.
        """
        if self.is_classifier:
            label_B = torch.from_numpy(batch.label).to(self.device)
            return functional.cross_entropy(self._logits(batch).float(), label_B, reduction="none")
        logits_BKV, target_BK = self._kept(batch)
        return _mean_per_record(logits_BKV, target_BK)

    @torch.no_grad()
    def scores(self, batch: Batch) -> Judged:
        """Loss and hit of each record of a pass, and what a classifier says of it."""
        guess_B, confidence_B = torch.full((len(batch.label),), -1), torch.zeros(len(batch.label))
        if self.is_classifier:
            logits, label = self._logits(batch).float(), torch.from_numpy(batch.label).to(self.device)
            confidence_B, guess_B = logits.softmax(-1).max(-1)
            loss_B, hit_B = functional.cross_entropy(logits, label, reduction="none"), guess_B == label
        else:
            logits_BKV, target_BK = self._kept(batch)
            loss_B = _mean_per_record(logits_BKV, target_BK)
            ignored_BK = target_BK == IGNORED
            hit_B = ((logits_BKV.argmax(-1) == target_BK) | ignored_BK).all(1) & ~ignored_BK.all(1)
        return Judged(
            loss_N=loss_B.double().cpu().numpy(),
            hit_N=hit_B.cpu().numpy(),
            guess_N=guess_B.cpu().numpy(),
            confidence_N=confidence_B.double().cpu().numpy(),
        )

    @torch.no_grad()
    def answer(self, prompt: str, *, max_new_tokens: int = 16) -> str:
        """Greedy continuation of a prompt, for people to read."""
        ids = self.tokenizer(prompt, return_tensors="pt", add_special_tokens=False).to(self.device)
        out = _inner(self.model).generate(
            **ids, max_new_tokens=max_new_tokens, do_sample=False, pad_token_id=self.pad_id
        )
        return str(self.tokenizer.decode(out[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)).strip()

    @torch.no_grad()
    def continued(self, prompt: IntVec, *, max_new_tokens: int) -> IntVec:
        """Greedy continuation of one prompt, up to and with the end of sequence; shorter where positions run out."""
        room = int(getattr(self.model.config, "max_position_embeddings", NO_LIMIT)) - len(prompt)
        if min(room, max_new_tokens) < 1:
            return np.zeros(0, np.int32)
        ids = torch.from_numpy(prompt.astype(np.int64))[None].to(self.device)
        out = _inner(self.model).generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=min(room, max_new_tokens),
            do_sample=False,
            num_beams=1,
            pad_token_id=self.pad_id,
        )
        return np.asarray(out[0, len(prompt) :].cpu().numpy(), np.int32)

    def text_of(self, ids: IntVec) -> str:
        """Write tokens as text, without special ones."""
        return str(self.tokenizer.decode(ids.tolist(), skip_special_tokens=True))

    def _read(self, specs: tuple[TensorSpec, ...]) -> FloatVec:
        return flatten({s.name: self._tensors[s.name].detach().float().cpu().numpy() for s in specs}, specs)

    def _write(self, vector: FloatVec, specs: tuple[TensorSpec, ...]) -> None:
        with torch.no_grad():
            for name, value in unflatten(vector, specs).items():
                self._tensors[name].copy_(torch.from_numpy(value))

    def _select(self, specs: tuple[TensorSpec, ...]) -> None:
        self._selected = specs
        names = {spec.name for spec in specs}
        for spec in self.layout.trained:
            self._tensors[spec.name].requires_grad_(spec.name in names)

    def _logits(self, batch: Batch) -> Tensor:
        ids, mask = torch.from_numpy(batch.input_ids), torch.from_numpy(batch.attention_mask)
        out = self.model(input_ids=ids.to(self.device), attention_mask=mask.to(self.device))
        return out.logits  # type: ignore[no-any-return]  # transformers is untyped here

    def _kept(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Logits at the positions where any record of the pass has a loss, and the tokens they should predict.

        The vocabulary projection is a fifth of a small model's work; prompts do not need it.
        """
        target_BT = functional.pad(torch.from_numpy(batch.labels)[:, 1:], (0, 1), value=IGNORED)
        kept_K = (target_BT != IGNORED).any(0).nonzero().squeeze(1)
        if not len(kept_K):
            kept_K = torch.zeros(1, dtype=torch.long)
        target_BK = target_BT[:, kept_K].to(self.device)
        ids, mask = torch.from_numpy(batch.input_ids), torch.from_numpy(batch.attention_mask)
        more: dict[str, Any] = {"logits_to_keep": kept_K.to(self.device)} if self._keeps_logits else {}
        out = self.model(input_ids=ids.to(self.device), attention_mask=mask.to(self.device), use_cache=False, **more)
        return (out.logits if self._keeps_logits else out.logits[:, kept_K]), target_BK


def _mean_per_record(logits_BKV: Tensor, target_BK: Tensor) -> Tensor:
    loss_BK = functional.cross_entropy(
        logits_BKV.float().transpose(1, 2), target_BK, reduction="none", ignore_index=IGNORED
    )
    return loss_BK.sum(1) / (target_BK != IGNORED).sum(1).clamp(min=1)


def _inner(model: Any) -> Any:
    """Unwrap PEFT's model."""
    return model.get_base_model()
