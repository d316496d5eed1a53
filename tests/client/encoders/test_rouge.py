"""ROUGE-L against the textbook's table of common subsequences, and continuations against a loop of single tokens."""

import importlib.util
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from partsong.client.data.encode import Encoded, Record
from partsong.client.dp.sampler import SystemRandomness
from partsong.client.encoders.encoder import LocalRound
from partsong.client.encoders.evaluation import Evaluation
from partsong.client.encoders.rouge import learned_stretch, rouge_l, rouge_of
from partsong.client.model.host import ModelHost
from partsong.client.rules.consent import NotAgreed
from partsong.common.plan import Plan
from partsong.common.questions.question import Question, equal_parts
from partsong.common.questions.settings import EvaluationConfig

ASKED = EvaluationConfig(rouge=True, most_new_tokens=6)
QUESTION = Question(parts=equal_parts("units", "rouge_l"), most_units=100, loss_clip=8.0, most_new_tokens=6)


def by_the_book(answer: str, reference: str) -> float:
    """The table of Lin's section 3.1, row by row."""
    said, meant = (re.findall(r"[a-z0-9]+", text.lower()) for text in (answer, reference))
    table = [[0] * (len(meant) + 1) for _ in range(len(said) + 1)]
    for i, a in enumerate(said):
        for j, b in enumerate(meant):
            table[i + 1][j + 1] = table[i][j] + 1 if a == b else max(table[i][j + 1], table[i + 1][j])
    return 2 * table[-1][-1] / (len(said) + len(meant)) if meant else 0.0


def test_the_example_of_the_paper() -> None:
    """Lin 2004, section 3.1: 3 of 4 words in common, then 2 of 4."""
    reference = "police killed the gunman"

    assert rouge_l("police kill the gunman", reference) == pytest.approx(3 / 4)
    assert rouge_l("the gunman kill police", reference) == pytest.approx(2 / 4)


@pytest.mark.parametrize(("answer", "reference"), [("", ""), ("word", ""), ("", "word"), ("...", "!"), ("x", "y")])
def test_nothing_in_common_is_nothing(answer: str, reference: str) -> None:
    """Also where a text has no word at all."""
    assert rouge_l(answer, reference) == 0.0


WORDS = st.lists(st.sampled_from(["a", "b", "The", "the", "x1", "-", "b."]), max_size=12).map(" ".join)


@settings(deadline=None, max_examples=200)
@given(WORDS, WORDS)
def test_any_two_texts_score_as_in_the_book(answer: str, reference: str) -> None:
    """Case and punctuation aside, and never outside of [0, 1]."""
    found = rouge_l(answer, reference)

    assert found == pytest.approx(by_the_book(answer, reference))
    assert 0 <= found <= 1


def test_a_continuation_is_the_likeliest_token_after_the_other(llama: ModelHost) -> None:
    """Against a loop that asks the model anew for each token."""
    prompt = np.array([1, 40, 77, 300, 12], np.int32)

    found = llama.continued(prompt, max_new_tokens=6)

    ids = torch.from_numpy(prompt.astype(np.int64))[None]
    with torch.no_grad():
        for _ in range(len(found)):
            ids = torch.cat([ids, llama.model(input_ids=ids).logits[:, -1:].argmax(-1)], dim=1)
    np.testing.assert_array_equal(found, ids[0, len(prompt) :].numpy())
    assert 1 <= len(found) <= 6


def test_no_continuation_passes_the_last_position(llama: ModelHost) -> None:
    """A prompt as long as the model's positions gets none, one that is two shorter gets two at most."""
    most = int(llama.model.config.max_position_embeddings)

    assert len(llama.continued(np.full(most, 5, np.int32), max_new_tokens=4)) == 0
    assert len(llama.continued(np.full(most - 2, 5, np.int32), max_new_tokens=4)) <= 2


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([-100, 5, 6, 7], (1, 4)),
        ([-100, -100, 6, 7, -100, 9], (2, 4)),
        ([-100, -100, -100], (0, 0)),
        ([4, 5, -100], (1, 2)),
        ([-100], (0, 0)),
    ],
)
def test_the_first_learned_stretch_is_what_is_compared(labels: list[int], expected: tuple[int, int]) -> None:
    """The first token is never predicted; of two stretches the first one counts."""
    ids = np.arange(len(labels), dtype=np.int32)
    record = Record(input_ids=ids, labels=np.array(labels, np.int32), label=-1, unit=None)

    assert learned_stretch(record) == expected


def ending_as_said(host: ModelHost, records: tuple[Record, ...]) -> tuple[Record, ...]:
    """The same prompts, with what the model itself says as what it should say."""
    out = []
    for record in records:
        prompt = record.input_ids[:4]
        said = host.continued(prompt, max_new_tokens=6)
        ids = np.concatenate([prompt, said])
        labels = np.concatenate([np.full(4, -100, np.int32), said])
        out.append(Record(input_ids=ids, labels=labels, label=-1, unit=None))
    return tuple(out)


def test_a_site_answers_with_the_sum_of_its_records(
    llama: ModelHost,
    make_records: Callable[..., tuple[Record, ...]],
    make_encoded: Callable[..., Encoded],
    make_site_plan: Callable[..., Plan],
) -> None:
    """Two records that end as the model would, one that does not: against their own texts."""
    right = ending_as_said(llama, make_records((9, 8), prompt=4))
    records = (*right, *make_records((12,), prompt=4, seed=8))
    plan = make_site_plan(llama, purpose="evaluate", evaluation=ASKED)
    encoder = Evaluation(host=llama, encoded=make_encoded(records), labels=(), groups=None)

    update = encoder.encode(
        LocalRound(
            plan=plan,
            number=1,
            frozen_F=llama.take(trained=False),
            adapter_P=llama.take(),
            randomness=SystemRandomness(),
            on_step=lambda _: None,
        )
    )

    assert plan.question is not None
    parts = {part.name: update.update_P[at] / plan.question.scale_of(part, clip_norm=1.0) for part, at in plan.question.slices()}  # fmt: skip
    said = llama.text_of(llama.continued(records[2].input_ids[:4], max_new_tokens=6))
    expected = 2 + by_the_book(said, llama.text_of(records[2].input_ids[4:]))
    assert parts["rouge_l"][0] == pytest.approx(expected, rel=1e-5)
    assert parts["units"][0] == pytest.approx(3)


def test_a_record_scores_the_same_in_any_company(
    llama: ModelHost, make_records: Callable[..., tuple[Record, ...]]
) -> None:
    """Bit by bit: the clip of one record bounds the whole of its share."""
    records = make_records((9, 30, 4, 16), prompt=3)

    together = rouge_of(llama, records, QUESTION)

    assert together.tolist() == [float(rouge_of(llama, [record], QUESTION)[0]) for record in records]


def test_a_site_without_the_library_refuses_before_it_reads(
    llama: ModelHost,
    make_encoded: Callable[..., Encoded],
    make_records: Callable[..., tuple[Record, ...]],
    make_site_plan: Callable[..., Plan],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By name, where the plan is proposed; a plan that does not ask is none of its business."""
    encoder = Evaluation(host=llama, encoded=make_encoded(make_records()), labels=(), groups=None)
    found: Any = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "rapidfuzz" else found(name, *more))  # fmt: skip

    with pytest.raises(NotAgreed, match=r"partsong\[evaluation\]"):
        encoder.facts(make_site_plan(llama, purpose="evaluate", evaluation=ASKED))

    assert encoder.facts(make_site_plan(llama, purpose="evaluate", evaluation=EvaluationConfig())).records == 5
