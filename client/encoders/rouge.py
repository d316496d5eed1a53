"""ROUGE-L of a site's test records: the adapter continues each prompt, and its words are compared with the record's.

Covers: a record is continued by itself. Together with others it would be padded, the last bits of its numbers would
depend on them, and so would the words: the share of one record in the sum would no longer be bounded by its own clip.
Does not cover: languages that put no spaces between words, where a stretch without punctuation counts as one word.

Source: Lin 2004, "ROUGE: a package for automatic evaluation of summaries", section 3.1, with beta = 1; no stemming.

N records.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from partsong.client.data.encode import Record
from partsong.client.data.tokens import IGNORED
from partsong.client.rules.consent import NotAgreed
from partsong.common.questions.question import ROUGE, Question

if TYPE_CHECKING:  # torch comes with it
    from partsong.client.model.host import ModelHost

_LIBRARY = "rapidfuzz"


def require_library(question: Question | None) -> None:
    """Find out whether a question can be answered here, before it costs anything.

    Raises:
        NotAgreed: `model`: ROUGE-L is asked for, and the library is not installed; nothing was read.
    """
    if asks_rouge(question) and importlib.util.find_spec(_LIBRARY) is None:
        raise NotAgreed(
            "model", "ROUGE-L needs a package that is not installed: pip install 'partsong[evaluation]'", rule="rouge"
        )


def asks_rouge(question: Question | None) -> bool:
    """Whether the records have to be continued."""
    return question is not None and ROUGE in {part.name for part in question.parts}


def rouge_of(host: ModelHost, records: Sequence[Record], question: Question) -> NDArray[np.float64]:
    """Have the adapter that sits on the host continue each record where its first learned stretch begins, (N,).

    Guarantees: the value of a record depends on that record alone. One with nothing to learn counts as 0; all do where
        the question does not ask.
    Args:
        host: of a language model.
        records: to be continued.
        question: says how many tokens a continuation may have.
    """
    found_N = np.zeros(len(records))
    for place, record in enumerate(records if asks_rouge(question) else ()):
        start, stop = learned_stretch(record)
        if start < stop:
            answer_T = host.continued(record.input_ids[:start], max_new_tokens=question.most_new_tokens)
            found_N[place] = rouge_l(host.text_of(answer_T), host.text_of(record.input_ids[start:stop]))
    return found_N


def learned_stretch(record: Record) -> tuple[int, int]:
    """Give the first tokens that are learned one after the other, from and up to; of a chat, the first answer."""
    learned_T = record.labels != IGNORED
    learned_T[:1] = False  # nothing stands before it
    if not learned_T.any():
        return 0, 0
    start = int(learned_T.argmax())
    rest_T = learned_T[start:]
    return start, start + (len(rest_T) if rest_T.all() else int(rest_T.argmin()))


def rouge_l(answer: str, reference: str) -> float:
    """Give 2 LCS / (m + n), over the words of two texts: in lower case, and split at whatever is no letter or digit.

    Returns:
        0 to 1; 0 where the reference has no word.
    """
    from rapidfuzz.distance import Indel  # noqa: PLC0415 - only where it is asked for
    from rapidfuzz.utils import default_process  # noqa: PLC0415

    said, meant = default_process(answer).split(), default_process(reference).split()
    # Insertions and deletions alone turn one into the other in m + n - 2 LCS steps.
    return float(Indel.normalized_similarity(said, meant)) if meant else 0.0
