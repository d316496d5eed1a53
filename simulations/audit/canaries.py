"""Records that nobody owns, made to be found again.

A canary of gradients pushes on one entry of the adapter, as hard as clipping lets it: the record that the privacy
claim fears most. A canary of text is a random text that only memory can complete: the record that people fear most.
Each is put in by a coin of its own; one that is left out is blanked, so that the number of records says nothing.

B records of a pass, M canaries, P trained parameters.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from partsong.client.data.batch import Batch
from partsong.client.data.encode import Record
from partsong.client.data.tokens import IGNORED
from partsong.client.model.host import ModelHost
from partsong.common.errors import ConfigError

Flags = NDArray[np.bool_]

EXCESS = 10.0
"""An included canary's gradient and loss before clipping / their clips."""
PREFIX_TOKENS, SECRET_TOKENS = 4, 6
"""Of a text canary. Six random tokens of a vocabulary of a thousand are 60 bits: nobody guesses them."""
_FIRST_MARK = -2
"""Class of canary 0; below it those of the others. A record without a class has -1, and classes start at 0."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One trained number: row and column of a layer's weight, and its place in the adapter's vector."""

    layer: nn.Linear
    row: int
    column: int
    place: int


def entries(host: ModelHost, *, count: int) -> tuple[Entry, ...]:
    """Choose entries of the adapter, evenly spread, one for each canary.

    Raises:
        ConfigError: fewer trained numbers than canaries; nothing was trained.
    """
    owners = {
        id(m.weight): m for m in host.model.modules() if isinstance(m, nn.Linear) and (m.bias is None or _fixed(m.bias))
    }
    spans: list[tuple[int, int, nn.Linear]] = []  # open entries before it, its place in the adapter, the layer
    place = total = 0
    for parameter in host.trainable():
        if (layer := owners.get(id(parameter))) is not None:
            spans.append((total, place, layer))
            total += parameter.numel()
        place += parameter.numel()
    if total < count:
        raise ConfigError(
            "audit.canaries", found=f"{count} for {total} trained numbers", expected="at most one for each"
        )
    chosen = []
    for i in np.linspace(0, total - 1, count).round().astype(int).tolist():
        before, start, layer = spans[bisect_right(spans, i, key=lambda span: span[0]) - 1]
        row, column = divmod(i - before, layer.in_features)
        chosen.append(Entry(layer, row, column, start + i - before))
    return tuple(chosen)


def _fixed(parameter: Tensor) -> bool:
    return not parameter.requires_grad


class CanaryHost(ModelHost):
    """A host that gives gradient canaries the gradient they are made for, and all other records their own.

    Canaries run through the same passes, layers, clipping and noise as other records. It remembers which of them were
    in the sample, blank or not: a set, because a pass that runs out of memory comes again in halves.
    """

    def __init__(
        self, host: ModelHost, *, chosen: Sequence[Entry], included_M: Flags, push: float, loss: float
    ) -> None:
        """Take over a host for the time of a rehearsal.

        Args:
            host: its model is shared, not copied.
            chosen: entry of each canary.
            included_M: the coins.
            push: norm of an included canary's gradient before clipping, > 0.
            loss: of an included canary.
        """
        super().__init__(
            model=host.model, tokenizer=host.tokenizer, files=host.files, device=host.device, options=host.lora_options
        )
        self._chosen, self._included_M, self._push, self._loss = chosen, included_M, push, loss
        self._drawn: set[int] = set()

    def loss_B(self, batch: Batch) -> Tensor:
        """Loss of each record: its own, or a canary's constant with the canary's gradient."""
        canary_B = _FIRST_MARK - batch.label
        marked = np.flatnonzero(canary_B >= 0)
        label = np.where(canary_B >= 0, 0 if self.is_classifier else -1, batch.label)
        own_B = super().loss_B(
            Batch(input_ids=batch.input_ids, attention_mask=batch.attention_mask, labels=batch.labels, label=label)
        )
        if not len(marked):
            return own_B
        rows = {int(b): int(canary_B[b]) for b in marked}
        self._drawn.update(rows.values())
        pushed_B, level_B = self._pushes({b: m for b, m in rows.items() if self._included_M[m]}, size=len(own_B))
        is_canary_B = torch.from_numpy(canary_B >= 0).to(own_B.device)
        return torch.where(is_canary_B, pushed_B + level_B, own_B)

    def end_sample(self) -> frozenset[int]:
        """Say which canaries were in the sample that has just been used, and begin the next one."""
        drawn, self._drawn = frozenset(self._drawn), set()
        return drawn

    def _pushes(self, rows: dict[int, int], *, size: int) -> tuple[Tensor, Tensor]:
        """Give a term of value 0 with the gradients of these canaries, and the losses' values; both (B,)."""
        level_B = torch.zeros(size, device=self.device)
        level_B[list(rows)] = self._loss
        by_layer: dict[nn.Linear, list[tuple[int, Entry]]] = {}
        for b, m in rows.items():
            by_layer.setdefault(self._chosen[m].layer, []).append((b, self._chosen[m]))
        pushed_B = torch.zeros(size, device=self.device)
        for layer, pairs in by_layer.items():
            input_B1I = torch.zeros(size, 1, layer.in_features, device=self.device)
            read_BO = torch.zeros(size, layer.out_features, device=self.device)
            for b, entry in pairs:
                input_B1I[b, 0, entry.column], read_BO[b, entry.row] = 1.0, self._push
            pushed_B = pushed_B + (layer(input_B1I)[:, 0] * read_BO).sum(1)
        return pushed_B - pushed_B.detach(), level_B


def owner(number: int) -> str:
    """Name whose record a canary is: nobody else's."""
    return f"canary {number}"


def gradient_records(host: ModelHost, *, count: int) -> tuple[Record, ...]:
    """Make the records that stand for gradient canaries: two tokens without loss, marked by their class."""
    ids_T = np.full(2, host.pad_id, dtype=np.int32)
    labels_T = np.full(2, IGNORED, dtype=np.int32)
    return tuple(Record(input_ids=ids_T, labels=labels_T, label=_FIRST_MARK - m, unit=owner(m)) for m in range(count))


def text_records(host: ModelHost, *, count: int, classes: int, random: np.random.Generator) -> tuple[Record, ...]:
    """Make random texts: a prefix and a secret that is learned, or for a classifier a random text and class."""
    special = set(host.tokenizer.all_special_ids)
    usual = np.array([i for i in range(len(host.tokenizer)) if i not in special], dtype=np.int32)
    records = []
    for m in range(count):
        ids_T = random.choice(usual, PREFIX_TOKENS + SECRET_TOKENS)
        labels_T = ids_T.copy()
        labels_T[:PREFIX_TOKENS] = IGNORED
        if classes:
            labels_T[:] = IGNORED
        label = int(random.integers(classes)) if classes else -1
        records.append(Record(input_ids=ids_T, labels=labels_T, label=label, unit=owner(m)))
    return tuple(records)


def other_secrets(record: Record, host: ModelHost, *, count: int, random: np.random.Generator) -> tuple[Record, ...]:
    """Give the same prefix with `count` other random secrets."""
    drawn = text_records(host, count=count, classes=0, random=random)
    return tuple(
        Record(
            input_ids=np.concatenate([record.input_ids[:PREFIX_TOKENS], other.input_ids[PREFIX_TOKENS:]]),
            labels=np.concatenate([record.labels[:PREFIX_TOKENS], other.labels[PREFIX_TOKENS:]]),
            label=record.label,
            unit=record.unit,
        )
        for other in drawn
    )


def filler(host: ModelHost, *, number: int, classes: int) -> Record:
    """Make what stands in the place of text `number` if it is left out.

    For a language model nothing is learned from it. A classifier learns a class from every record, so it is the same
    empty text of class 0 for all of them.
    """
    ids_T, labels_T = np.full(2, host.pad_id, dtype=np.int32), np.full(2, IGNORED, dtype=np.int32)
    return Record(input_ids=ids_T, labels=labels_T, label=0 if classes else -1, unit=owner(number))
