"""Answers an evaluation: how the adapter that came does on the records that this site keeps for testing.

Covers: only counts and sums with a bounded share for each unit leave, with the plan's noise; of a patient one record is
taken, drawn anew. What each record scored is told to nobody.
Does not cover: that the test records are not among those that were trained on, which is the site's business; they are
paid from the same holding, so that overlap costs no more privacy than is recorded.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from partsong.client.data.encode import Encoded, Record
from partsong.client.data.tokens import IGNORED
from partsong.client.dp.totals import Totals
from partsong.client.encoders.asked import chosen_records, places_of
from partsong.client.encoders.encoder import LocalRound, LocalUpdate, Progress
from partsong.client.encoders.evaluation_rows import Marked, rows_of
from partsong.client.encoders.rouge import require_library, rouge_of
from partsong.client.model.host import ModelHost
from partsong.client.rules.consent import Facts
from partsong.client.training.train import score
from partsong.common.plan import Plan
from partsong.common.questions.question import Question

_MOST_AT_ONCE = 1 << 20
"""Numbers of the rows that are held at a time: 8 MB."""


class Evaluation:
    """The encoder of evaluation queries."""

    resumes = False

    def __init__(
        self, *, host: ModelHost, encoded: Encoded, labels: tuple[str, ...], groups: Sequence[str] | None
    ) -> None:
        """Hold model and test records; nothing is read.

        Args:
            host: the resident base model.
            encoded: the site's test records.
            labels: its closed list of classes.
            groups: of each record, where the site says which group it is of.
        """
        self._host, self._records, self._groups = host, encoded.records, groups
        self._facts = Facts(
            records=len(encoded.records),
            base_sha256=host.files.sha256,
            layout=host.layout,
            lora=host.lora_options,
            labels=labels,
            patients=encoded.count("patient"),
            max_length=encoded.report.max_length,
        )

    def facts(self, plan: Plan) -> Facts:
        """Say what is installed here, and how many test records there are.

        Raises:
            NotAgreed: `model`: the plan asks for ROUGE-L, and the library is not installed.
        """
        require_library(plan.question)
        return self._facts

    def encode(self, asked: LocalRound) -> LocalUpdate:
        """Score the test records and give the noised sums.

        Raises:
            NotAgreed: `data`: the question tells groups apart and the records do not; nothing was read.
            Refused: a repeatable draw under differential privacy.
        """
        plan = asked.plan
        if plan.question is None:
            raise AssertionError("a plan of this study has a question, or it could not be read")
        group_R = places_of(plan.question, self._groups, count=len(self._records))
        chosen_N = chosen_records([record.unit for record in self._records], plan.dp, asked.randomness)
        self._host.put(asked.frozen_F, trained=False)
        self._host.put(asked.adapter_P)
        records = [self._records[i] for i in chosen_N]
        scores = score(self._host, records, batch_size=plan.training.per_device_eval_batch_size)
        marked = Marked(
            loss_N=scores.loss_N,
            hit_N=scores.hit_N,
            tokens_N=np.array([learned_tokens(record) for record in records], np.int64),
            label_N=np.array([record.label for record in records], np.int64),
            guess_N=scores.guess_N,
            confidence_N=scores.confidence_N,
            rouge_N=rouge_of(self._host, records, plan.question),
            group_N=group_R[chosen_N],
        )
        asked.on_step(Progress(step=1, steps=1, local_loss=float(marked.loss_N.mean()) if records else 0.0))
        return _summed(plan, plan.question, marked)


def learned_tokens(record: Record) -> int:
    """Count the tokens that are predicted; the first one of a sequence never is."""
    return int((record.labels[1:] != IGNORED).sum())


def _summed(plan: Plan, question: Question, marked: Marked) -> LocalUpdate:
    clip_norm = 1.0 if plan.dp is None else plan.dp.clip_norm
    totals = Totals(size=question.size, clip_norm=clip_norm, loss_clip=question.loss_clip)
    each = max(1, _MOST_AT_ONCE // question.size)
    for start in range(0, len(marked.loss_N), each):
        part = _cut(marked, slice(start, start + each))
        totals.add(rows_of(question, part, clip_norm=clip_norm), part.loss_N)
    answer_Q, loss = totals.exact() if plan.dp is None else totals.release(plan.dp)
    return LocalUpdate(
        update_P=answer_Q,
        loss=loss,
        visits=len(marked.loss_N),
        tokens=int(marked.tokens_N.sum()),
        nonfinite=totals.nonfinite,
        events=() if plan.dp is None else (plan.events(steps=1),),
    )


def _cut(marked: Marked, part: slice) -> Marked:
    return Marked(
        loss_N=marked.loss_N[part],
        hit_N=marked.hit_N[part],
        tokens_N=marked.tokens_N[part],
        label_N=marked.label_N[part],
        guess_N=marked.guess_N[part],
        confidence_N=marked.confidence_N[part],
        rouge_N=marked.rouge_N[part],
        group_N=marked.group_N[part],
    )
