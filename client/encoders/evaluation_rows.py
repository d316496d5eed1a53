"""What each record contributes to an evaluation: its row of counts, before anything is summed.

N records, Q numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from partsong.common.questions.question import (
    CONFIDENCE,
    CONFUSION,
    GROUPS,
    HITS,
    ROUGE,
    TOKEN_LOSS,
    TOKENS,
    UNITS,
    PartName,
    Question,
)

Rows = NDArray[np.float64]
Numbers = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Marked:
    """What a model made of some records. Never leaves the site."""

    loss_N: Rows
    """Mean over a record's learned tokens, or of its class [nats]."""
    hit_N: NDArray[np.bool_]
    tokens_N: Numbers
    """Learned tokens."""
    label_N: Numbers
    """Class; -1 for a language model."""
    guess_N: Numbers
    """Predicted class; -1 for a language model."""
    confidence_N: Rows
    """Probability of the predicted class."""
    rouge_N: Rows
    """How much of the record's own continuation the model's has, 0 to 1; 0 where nobody asks."""
    group_N: Numbers
    """Place in `Question.all_groups`; 0 where the question has none."""


def rows_of(question: Question, marked: Marked, *, clip_norm: float) -> Rows:
    """Give the scaled rows, (N, Q).

    Guarantees: the row of a record depends on nothing but that record; its L2 norm is at most `clip_norm`, up to
        rounding and to values that are not finite.
    """
    row_NQ = np.zeros((len(marked.loss_N), question.size))
    for part, place in question.slices():
        row_NQ[:, place] = question.scale_of(part, clip_norm=clip_norm) * _PARTS[part.name](question, marked)
    return row_NQ


def _units(_question: Question, marked: Marked) -> Rows:
    return np.ones((len(marked.loss_N), 1))


def _hits(_question: Question, marked: Marked) -> Rows:
    return marked.hit_N.astype(float)[:, None]


def _tokens(question: Question, marked: Marked) -> Rows:
    """In units of `most_tokens`."""
    return (np.minimum(marked.tokens_N, question.most_tokens) / question.most_tokens)[:, None]


def _token_loss(question: Question, marked: Marked) -> Rows:
    """Loss of the tokens that count, in units of `most_tokens * loss_clip`."""
    clipped_N = marked.loss_N.clip(0.0, question.loss_clip) / question.loss_clip
    return _tokens(question, marked) * clipped_N[:, None]


def _rouge(_question: Question, marked: Marked) -> Rows:
    return marked.rouge_N[:, None]


def _confusion(question: Question, marked: Marked) -> Rows:
    """One cell, row by row: the true class, then the predicted one."""
    return _one_of(question.classes**2, marked.label_N * question.classes + marked.guess_N)


def _confidence(question: Question, marked: Marked) -> Rows:
    """For each bin: records, hits, sum of confidences."""
    # A confidence that is not finite stays in the row, which then counts as zero; it only needs some bin.
    place_N = np.nan_to_num(marked.confidence_N, posinf=1.0, neginf=0.0).clip(0.0, 1.0) * question.bins
    bin_N = np.minimum(place_N.astype(np.int64), question.bins - 1)
    filled_N3 = np.stack([np.ones(len(bin_N)), marked.hit_N.astype(float), marked.confidence_N], axis=1)
    out_NB3 = np.zeros((len(bin_N), question.bins, 3))
    out_NB3[np.arange(len(bin_N)), bin_N] = filled_N3
    return out_NB3.reshape(len(bin_N), -1)


def _groups(question: Question, marked: Marked) -> Rows:
    """For each group its confusion matrix; of a language model its records and hits."""
    if question.classes:
        cell_N = marked.label_N * question.classes + marked.guess_N
        return _one_of(len(question.all_groups) * question.classes**2, marked.group_N * question.classes**2 + cell_N)
    out_NG2 = np.zeros((len(marked.hit_N), len(question.all_groups), 2))
    place_N = np.arange(len(marked.hit_N))
    out_NG2[place_N, marked.group_N] = np.stack([np.ones(len(place_N)), marked.hit_N.astype(float)], axis=1)
    return out_NG2.reshape(len(place_N), -1)


def _one_of(size: int, cell_N: Numbers) -> Rows:
    out = np.zeros((len(cell_N), size))
    out[np.arange(len(cell_N)), cell_N] = 1.0
    return out


_PARTS: Mapping[PartName, Callable[[Question, Marked], Rows]] = {
    UNITS: _units,
    HITS: _hits,
    TOKENS: _tokens,
    TOKEN_LOSS: _token_loss,
    ROUGE: _rouge,
    CONFUSION: _confusion,
    CONFIDENCE: _confidence,
    GROUPS: _groups,
}
