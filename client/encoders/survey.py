"""Answers a survey: what the records look like, in counts with a bounded share for each unit. No model is asked.

Covers: only noised counts leave. One unit more or less moves the counts by at most one clip, duplicates included: the
number of duplicates is the number of records less that of distinct ones, and one record changes both by one or only the
first, whichever copy of it is called the duplicate.
Does not cover: what the exact figures at the site say (`findings`); they are for whoever runs the site.

N records, Q numbers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from partsong.client.data.encode import Encoded, Record
from partsong.client.data.personal import require_libraries
from partsong.client.data.tokens import IGNORED
from partsong.client.dp.totals import Totals
from partsong.client.encoders.asked import chosen_records, places_of
from partsong.client.encoders.encoder import LocalRound, LocalUpdate, Progress
from partsong.client.rules.consent import Facts
from partsong.common.plan import Plan
from partsong.common.questions.question import DUPLICATES, PERSONAL, TABLE, UNITS, Question

IsPersonal = Callable[[int], bool]
"""Whether the record at a place holds a personal detail (`partsong.client.data.personal`)."""
_MOST_AT_ONCE = 1 << 20
"""Numbers of the rows that are held at a time: 8 MB."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Findings:
    """Exact figures of a site's records. They stay there."""

    records: int
    duplicates: int
    """Records that are equal, token by token, to an earlier one."""
    missing: int
    """Records with nothing to learn from: no text, or none that is learned."""
    longest: int
    """Tokens of the longest record, after the cut."""
    personal: int | None = None
    """Records in which a personal detail was found; None: nobody looked."""

    @property
    def words(self) -> str:
        """For people."""
        personal = "" if self.personal is None else f", {self.personal} with a personal detail"
        return (
            f"{self.records} records, {self.duplicates} duplicates, {self.missing} with nothing to learn from, "
            f"the longest of {self.longest} tokens{personal}"
        )


class Survey:
    """The encoder of survey queries."""

    resumes = False

    def __init__(
        self,
        *,
        facts: Callable[[Plan], Facts],
        records: Callable[[Plan], Encoded],
        groups: Sequence[str] | None,
        personal: IsPersonal,
    ) -> None:
        """Hold the way to the records; nothing is read.

        Args:
            facts: what the site says of itself.
            records: those that it would train on, tokenised.
            groups: of each record, where the site says which group it is of.
            personal: of the record at a place, asked where the question asks.
        """
        self._facts, self._records, self._groups, self._personal = facts, records, groups, personal

    def facts(self, plan: Plan) -> Facts:
        """Say what is installed here, and how many records there are.

        Raises:
            NotAgreed: `data`: the plan asks for personal details, and what finds them is not installed.
        """
        require_libraries(plan.question)
        return self._facts(plan)

    def encode(self, asked: LocalRound) -> LocalUpdate:
        """Count the records and give the noised sums.

        Raises:
            NotAgreed: `data`: the question tells groups apart and the records do not.
            Refused: a repeatable draw under differential privacy.
        """
        plan = asked.plan
        if plan.question is None:
            raise AssertionError("a plan of this study has a question, or it could not be read")
        question, records = plan.question, self._records(plan).records
        group_R = places_of(question, self._groups, count=len(records))
        chosen_N = chosen_records([record.unit for record in records], plan.dp, asked.randomness)
        clip_norm = 1.0 if plan.dp is None else plan.dp.clip_norm
        totals = Totals(size=question.size, clip_norm=clip_norm, loss_clip=question.loss_clip)
        seen: set[bytes] = set()
        each = max(1, _MOST_AT_ONCE // question.size)
        for start in range(0, len(chosen_N), each):
            part_N = chosen_N[start : start + each]
            rows = survey_rows(question, [records[i] for i in part_N], group_R[part_N], seen, clip_norm=clip_norm)
            add_personal(rows, question, part_N, self._personal, clip_norm=clip_norm)
            totals.add(rows, np.zeros(len(part_N)))
        asked.on_step(Progress(step=1, steps=1, local_loss=0.0))
        answer_Q, loss = totals.exact() if plan.dp is None else totals.release(plan.dp)
        return LocalUpdate(
            update_P=answer_Q,
            loss=loss,
            visits=len(chosen_N),
            tokens=0,
            nonfinite=totals.nonfinite,
            events=() if plan.dp is None else (plan.events(steps=1),),
        )


def survey_rows(
    question: Question, records: Sequence[Record], group_N: NDArray[np.int64], seen: set[bytes], *, clip_norm: float
) -> NDArray[np.float64]:
    """Give the scaled rows, (N, Q).

    Args:
        question: of a survey.
        records: N of them.
        group_N: place of each among the groups.
        seen: digests of the records before these; those of these are added.
        clip_norm: L2 bound of a row.
    """
    row_NQ = np.zeros((len(records), question.size))
    for part, place in question.slices():
        scale = question.scale_of(part, clip_norm=clip_norm)
        if part.name == UNITS:
            row_NQ[:, place.start] = scale
        elif part.name == TABLE:
            cells = [place.start + cell_of(question, r, int(g)) for r, g in zip(records, group_N, strict=True)]
            row_NQ[np.arange(len(records)), cells] = scale
        elif part.name == DUPLICATES:
            row_NQ[:, place.start] = [scale * _again(record, seen) for record in records]
    return row_NQ


def add_personal(
    row_NQ: NDArray[np.float64],
    question: Question,
    place_N: NDArray[np.int64],
    personal: IsPersonal,
    *,
    clip_norm: float,
) -> None:
    """Mark the rows of the records in which a personal detail is found; none where the question does not ask.

    Args:
        row_NQ: of `survey_rows`; changed.
        question: of a survey.
        place_N: of each row's record among all of them.
        personal: of the record at a place.
        clip_norm: L2 bound of a row.
    """
    for part, place in question.slices():
        if part.name == PERSONAL:
            scale = question.scale_of(part, clip_norm=clip_norm)
            row_NQ[:, place.start] = [scale * personal(int(i)) for i in place_N]


def cell_of(question: Question, record: Record, group: int) -> int:
    """Give the place in the table: label, then group, then class of length, then whether something is missing."""
    label, groups = max(record.label, 0), max(1, len(question.all_groups))
    length = int(np.searchsorted(question.lengths, len(record.input_ids)))
    return ((label * groups + group) * (len(question.lengths) + 1) + length) * 2 + int(is_missing(record))


def is_missing(record: Record) -> bool:
    """Whether there is nothing to learn from: no token besides the frame, or none that is learned."""
    if record.label >= 0:
        return len(record.input_ids) <= 2
    return not bool((record.labels[1:] != IGNORED).any())


def findings(records: Sequence[Record], *, personal: IsPersonal | None = None) -> Findings:
    """Look at a site's records, for its operator alone.

    Args:
        records: all of them.
        personal: of the record at a place; None: nobody looks for personal details.
    """
    seen: set[bytes] = set()
    return Findings(
        records=len(records),
        duplicates=sum(_again(record, seen) for record in records),
        missing=sum(map(is_missing, records)),
        longest=max((len(record.input_ids) for record in records), default=0),
        personal=None if personal is None else sum(map(personal, range(len(records)))),
    )


def _again(record: Record, seen: set[bytes]) -> bool:
    """Say whether an equal record came before, and remember this one."""
    whole: Any = record.input_ids.tobytes() + b"|" + record.labels.tobytes() + str(record.label).encode()
    digest = hashlib.sha256(whole).digest()
    known = digest in seen
    seen.add(digest)
    return known
