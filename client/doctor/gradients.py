"""Whether this installation computes each record's own gradient: differential privacy stands on it.

Covers: the site's own base model on its own device, with records that are made up here.
Does not cover: other layers than linear ones; the engine refuses those by name.

B records of a pass, P trained parameters.
"""

from __future__ import annotations

import numpy as np
import torch

from partsong.client.data.batch import pad
from partsong.client.data.encode import Record
from partsong.client.data.tokens import IGNORED
from partsong.client.dp.linear_gradients import LinearGradients
from partsong.client.model.host import ModelHost
from partsong.client.model.load import load
from partsong.common.config import AdapterConfig, ModelConfig
from partsong.common.doctor.finding import Seen, fail, ok

_LENGTHS = (9, 3, 6, 2, 7)
"""Unequal, so that padding has a chance to leak."""
_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2}
"""Relative error by the number format of the base. Rounding gives 1e-6 and 1e-2; a gradient that is mixed with another
record's is off by its own size."""
_RANK = 2


def load_for_check(model: ModelConfig, labels: tuple[str, ...]) -> ModelHost:
    """Load the base with a small adapter on every linear layer, A and B trained and away from zero."""
    head = model.dtype != "bfloat16"
    adapter = AdapterConfig(method="fedit", r=_RANK, target_modules=("all-linear",), train_head=head)
    host = load(model, adapter, labels=labels)
    size = host.take().size
    host.put(np.random.default_rng(0).normal(scale=0.05, size=size).astype(np.float32))
    return host


def made_up_records(host: ModelHost, *, classes: int) -> list[Record]:
    """Make records of random tokens."""
    rng = np.random.default_rng(1)
    records = []
    for number, length in enumerate(_LENGTHS):
        ids_T = rng.integers(1, len(host.tokenizer), size=length, dtype=np.int32)
        ids_T[ids_T == host.pad_id] = (host.pad_id + 1) % len(host.tokenizer)
        labels_T = ids_T.copy() if not classes else np.full_like(ids_T, IGNORED)
        labels_T[0] = IGNORED
        label = number % classes if classes else -1
        records.append(Record(input_ids=ids_T, labels=labels_T, label=label, unit=None))
    return records


def check_gradients(host: ModelHost, *, classes: int) -> Seen:
    """Compare the engine's gradient of each record in one pass with that of the record by itself."""
    records = made_up_records(host, classes=classes)
    with host.training():
        alone_BP = torch.stack([_alone(host, record) for record in records])
        together_BP = _together(host, records)
    error = float(((together_BP - alone_BP).norm(dim=1) / alone_BP.norm(dim=1)).max())
    dtype = next(host.model.parameters()).dtype
    limit = _TOLERANCE.get(dtype, _TOLERANCE[torch.bfloat16])
    found = f"{len(records)} records, {alone_BP.shape[1]} parameters, largest relative error {error:.1e}"
    if not error <= limit:  # also where it is not a number
        return fail(
            found,
            cause=f"more than {limit:g}: gradients in a pass are not each record's own, so clipping would not bound "
            "what a record changes",
            remedy="train nothing with this set-up; try privacy.engine=hooks, and report model and versions",
        )
    return ok(found)


def _alone(host: ModelHost, record: Record) -> torch.Tensor:
    parameters = host.trainable()
    host.loss_B(pad([record], pad_id=host.pad_id)).sum().backward()  # type: ignore[no-untyped-call]  # torch's own
    row_P = torch.cat([torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in parameters])
    for parameter in parameters:
        parameter.grad = None
    return row_P.float()


def _together(host: ModelHost, records: list[Record]) -> torch.Tensor:
    gradients = LinearGradients(host.model, host.trainable())
    try:
        gradients.begin(len(records))
        torch.autograd.backward(host.loss_B(pad(records, pad_id=host.pad_id)).sum())
        gradients.norms()
        return torch.stack([gradients.row(number) for number in range(len(records))])
    finally:
        gradients.detach()
