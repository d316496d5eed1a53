"""Records cut into passes of like length and padded to rectangles.

B: records of a pass; T: tokens of its longest record.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from partsong.client.data.encode import Record
from partsong.client.data.tokens import IGNORED

LongArray = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Batch:
    """One pass through the model."""

    input_ids: LongArray
    """(B, T)."""
    attention_mask: LongArray
    """(B, T) 1 on a token, 0 on padding."""
    labels: LongArray
    """(B, T) -100 where nothing is learned, padding included."""
    label: LongArray
    """(B,) class, or -1."""


def pad(records: Sequence[Record], *, pad_id: int, multiple_of: int = 1) -> Batch:
    """Put records into a rectangle, padded on the right.

    Guarantees: row i is record i; T is the smallest multiple of `multiple_of` that holds the longest record, and
        `multiple_of` where there is no record.
    Args:
        records: B of them, B >= 0.
        pad_id: token to fill with; any will do, the mask hides it.
        multiple_of: >= 1; tensor cores like 8.
    """
    longest = max((len(record.input_ids) for record in records), default=1)
    shape = (len(records), -(-longest // multiple_of) * multiple_of)
    input_ids_BT = np.full(shape, pad_id, dtype=np.int64)
    attention_mask_BT = np.zeros(shape, dtype=np.int64)
    labels_BT = np.full(shape, IGNORED, dtype=np.int64)
    for i, record in enumerate(records):
        size = len(record.input_ids)
        input_ids_BT[i, :size] = record.input_ids
        attention_mask_BT[i, :size] = 1
        labels_BT[i, :size] = record.labels
    label_B = np.fromiter((record.label for record in records), dtype=np.int64, count=len(records))
    return Batch(input_ids=input_ids_BT, attention_mask=attention_mask_BT, labels=labels_BT, label=label_B)


def by_length(indices: npt.ArrayLike, lengths: npt.ArrayLike, *, batch_size: int) -> list[LongArray]:
    """Cut a set of records into passes of like length.

    Guarantees: every index comes once for each time it was given; the longest come first, so that memory runs out
        in the first pass or not at all; equal lengths keep their order; only the last pass may be short; no index,
        no pass.
    Args:
        indices: (N,) into `lengths`, such as a Poisson sample.
        lengths: (R,) tokens of every record.
        batch_size: records of a pass, >= 1.
    """
    indices_N = np.asarray(indices, dtype=np.int64)
    order_N = np.argsort(-np.asarray(lengths, dtype=np.int64)[indices_N], kind="stable")
    sorted_N = indices_N[order_N]
    return [sorted_N[start : start + batch_size] for start in range(0, len(sorted_N), batch_size)]
