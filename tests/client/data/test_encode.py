"""Records as token ids, and which of them are learned."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, processors
from transformers import PreTrainedTokenizerFast

from partsong.client.data.encode import encode
from partsong.client.data.table import table_from_rows
from partsong.common.config import DataConfig
from partsong.common.errors import ConfigError, DataError, ModelError, Refused

PLAIN = DataConfig()
texts = st.text(alphabet="abc eh.\nü😀", min_size=1, max_size=30).filter(str.strip)


def learned(record: Any) -> list[int]:
    """Return the tokens on which loss is taken."""
    assert record.input_ids.dtype == record.labels.dtype == np.int32
    assert record.input_ids.shape == record.labels.shape
    taken = record.labels != -100
    assert np.array_equal(record.labels[taken], record.input_ids[taken])
    return list(record.labels[taken])


def test_a_text_is_learned_but_for_its_first_token_and_ends(bpe: Any) -> None:
    """The end-of-sequence token follows the text and is learned."""
    table = table_from_rows([{"text": "the chest", "u": "7"}], DataConfig(unit_field="u"), "memory")

    record = encode(table, bpe, PLAIN, task="causal_lm").records[0]

    assert list(record.input_ids) == [*bpe.encode("the chest"), bpe.eos_token_id]
    assert learned(record) == list(record.input_ids[1:])
    assert (record.label, record.unit) == (-1, "7")


def test_opening_tokens_stand_once_before_a_record(opening: Any) -> None:
    """A tokenizer that opens each text opens the record, not the completion."""
    config = replace(PLAIN, max_length=5)
    text = table_from_rows([{"text": "the chest"}], PLAIN, "memory")
    pair = table_from_rows([{"prompt": "the chest is clear", "completion": " the"}], PLAIN, "memory")

    whole = encode(text, opening, PLAIN, task="causal_lm").records[0]
    cut = encode(pair, opening, config, task="causal_lm").records[0]

    assert list(whole.input_ids) == [*opening.encode("the chest"), opening.eos_token_id]
    assert list(cut.input_ids).count(opening.bos_token_id) == 1
    assert cut.input_ids[0] == opening.bos_token_id
    assert len(cut.input_ids) == 5


def test_only_the_completion_is_learned_unless_all_is_asked_for(bpe: Any) -> None:
    """The prompt's tokens are those it has alone, so the completion starts where the model will be asked."""
    table = table_from_rows([{"prompt": "the he", "completion": "art is"}], PLAIN, "memory")
    prompt = bpe.encode("the he")
    completion = [*bpe.encode("art is"), bpe.eos_token_id]

    only = encode(table, bpe, PLAIN, task="causal_lm").records[0]
    both = encode(table, bpe, replace(PLAIN, completion_only_loss=False), task="causal_lm").records[0]

    assert list(only.input_ids) == list(both.input_ids) == [*prompt, *completion]
    assert prompt + completion[:-1] != bpe.encode("the heart is")
    assert learned(only) == completion
    assert learned(both) == [*prompt, *completion][1:]


@pytest.mark.parametrize(
    ("max_length", "ids"),
    [(9, "pppqqccce"), (8, "ppqqccce"), (5, "qccce"), (4, "ccce"), (3, "ccc"), (2, "cc")],
)
def test_the_prompt_gives_way_from_its_left_then_the_completion_from_its_right(
    bpe: Any, max_length: int, ids: str
) -> None:
    """One token for each letter here: what is kept is the end of the prompt and the start of the completion."""
    table = table_from_rows([{"prompt": "ZZZQQ", "completion": "XXX"}], PLAIN, "memory")
    (z,), (q,), (x,) = (bpe.encode(letter) for letter in "ZQX")
    token = {"p": z, "q": q, "c": x, "e": bpe.eos_token_id}

    encoded = encode(table, bpe, replace(PLAIN, max_length=max_length), task="causal_lm")

    assert list(encoded.records[0].input_ids) == [token[letter] for letter in ids]
    assert encoded.report.tokens_cut == 9 - max_length
    assert encoded.report.truncated == (max_length < 9)
    assert encoded.report.longest == 9
    assert encoded.report.without_loss == 0


@settings(deadline=None)
@given(st.lists(st.tuples(texts, texts), min_size=1, max_size=5), st.integers(2, 40), st.sampled_from([0, 1]))
def test_what_is_kept_and_what_is_cut_add_up(
    bpe: Any, opening: Any, pairs: list[tuple[str, str]], max_length: int, opened: int
) -> None:
    """Against plain tokenising: no record is lost or too long, cut tokens are counted, each completion is a prefix."""
    tokenizer = opening if opened else bpe
    table = table_from_rows([{"prompt": p, "completion": c} for p, c in pairs], PLAIN, "memory")

    encoded = encode(table, tokenizer, replace(PLAIN, max_length=max_length), task="causal_lm")

    full = [
        (tokenizer.encode(p), [*tokenizer.encode(c, add_special_tokens=False), tokenizer.eos_token_id])
        for p, c in pairs
    ]
    assert len(encoded.records) == encoded.report.records == len(pairs)
    assert encoded.report.tokens == encoded.lengths().sum()
    assert encoded.report.tokens + encoded.report.tokens_cut == sum(len(p) + len(c) for p, c in full)
    assert encoded.report.truncated == sum(len(p) + len(c) > max_length for p, c in full)
    assert encoded.report.longest == max(len(p) + len(c) for p, c in full)
    for record, (p, c) in zip(encoded.records, full, strict=True):
        assert len(record.input_ids) == min(max_length, len(p) + len(c))
        answer = learned(record)
        first = int(not opened and len(c) >= max_length)  # nothing is left to predict the first token from
        assert answer == c[first : max_length - opened]


@settings(deadline=None)
@given(st.lists(texts, min_size=1, max_size=5), st.integers(2, 20))
def test_a_text_too_long_loses_its_end(bpe: Any, values: list[str], max_length: int) -> None:
    """The record is a prefix of the uncut one, its end-of-sequence token gone with the rest."""
    table = table_from_rows([{"text": value} for value in values], PLAIN, "memory")

    encoded = encode(table, bpe, replace(PLAIN, max_length=max_length), task="causal_lm")

    for record, value in zip(encoded.records, values, strict=True):
        assert list(record.input_ids) == [*bpe.encode(value), bpe.eos_token_id][:max_length]
        assert learned(record) == list(record.input_ids[1:])


CLASSES = DataConfig(labels=("lung", "bone", "3"))
words = st.lists(st.sampled_from(["the", "chest", "heart", "odd", "left"]), min_size=1, max_size=12).map(" ".join)


@settings(deadline=None)
@given(st.lists(st.tuples(words, st.sampled_from(["lung", "bone", 3])), min_size=1, max_size=5), st.integers(3, 16))
def test_a_classified_text_is_what_the_tokenizer_itself_would_cut(
    bert: Any, rows: list[tuple[str, str | int]], max_length: int
) -> None:
    """Against the tokenizer's own truncation, special tokens included; a number is the label of that name."""
    table = table_from_rows([{"text": t, "label": n} for t, n in rows], CLASSES, "memory")

    encoded = encode(table, bert, replace(CLASSES, max_length=max_length), task="classification")

    for record, (text, label) in zip(encoded.records, rows, strict=True):
        assert list(record.input_ids) == bert(text, truncation=True, max_length=max_length)["input_ids"]
        assert record.label == CLASSES.labels.index(str(label))
        assert set(record.labels) == {-100}
    assert encoded.report.tokens_cut == sum(max(0, len(bert.encode(t)) - max_length) for t, _ in rows)
    assert encoded.report.without_loss == 0


@pytest.mark.parametrize(
    ("label", "hint"), [("lumg", "; did you mean 'lung'?"), ("Smith", ""), (1, ""), ("Lung ", "; did you mean 'lung'?")]
)
def test_an_unknown_label_is_named_by_row_and_not_quoted(bert: Any, label: object, hint: str) -> None:
    """What was found is private; what is proposed comes from the public list. A number is never a place in it."""
    rows = [{"text": "chest", "label": "bone"}] * 9 + [{"text": "chest", "label": label}]

    with pytest.raises(DataError) as caught:
        encode(table_from_rows(rows, CLASSES, "memory"), bert, CLASSES, task="classification")

    assert str(caught.value) == (
        f"memory, row 10, field label: found a label outside data.labels, expected one of its 3 labels{hint}"
    )


def test_a_task_that_does_not_fit_is_refused(bpe: Any, bert: Any) -> None:
    """Records without labels, labels without a list, a tokenizer without an end, a length without room."""
    text = table_from_rows([{"text": "chest"}], PLAIN, "memory")
    labelled = table_from_rows([{"text": "chest", "label": "lung"}], PLAIN, "memory")

    with pytest.raises(DataError, match="memory: found text records, expected text and label"):
        encode(text, bert, CLASSES, task="classification")
    with pytest.raises(ConfigError, match=r"data\.labels: found 0 labels"):
        encode(labelled, bert, PLAIN, task="classification")
    with pytest.raises(ConfigError, match=r"data\.max_length: found 2, expected more than 2"):
        encode(labelled, bert, replace(CLASSES, max_length=2), task="classification")
    with pytest.raises(ModelError, match="no end-of-sequence token"):
        encode(text, bert, PLAIN, task="causal_lm")
    assert encode(labelled, bpe, PLAIN, task="causal_lm").records[0].label == -1


def test_a_length_that_opening_tokens_fill_is_refused(bpe: Any) -> None:
    """Records of nothing but what stands before each of them would teach nothing."""
    inner = Tokenizer.from_str(bpe.backend_tokenizer.to_str())
    inner.post_processor = processors.TemplateProcessing(single="<s> <s> $A", special_tokens=[("<s>", 0)])
    twice = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="<|im_end|>")
    table = table_from_rows([{"text": "chest"}], PLAIN, "memory")

    with pytest.raises(ConfigError, match=r"data\.max_length: found 2, expected more than 2"):
        encode(table, twice, replace(PLAIN, max_length=2), task="causal_lm")

    assert len(encode(table, twice, replace(PLAIN, max_length=3), task="causal_lm").records[0].input_ids) == 3


def test_packing_is_refused_by_name(bpe: Any) -> None:
    """One sequence holds one record."""
    table = table_from_rows([{"text": "chest"}], PLAIN, "memory")

    with pytest.raises(Refused, match="refused by rule packing") as caught:
        encode(table, bpe, replace(PLAIN, packing=True), task="causal_lm")

    assert caught.value.rule == "packing"


def test_a_text_that_the_vocabulary_does_not_know_at_all_is_named() -> None:
    """A record of no token could be neither padded nor learned."""
    empty = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE({"a": 0, "e": 1}, [])), eos_token="e")
    table = table_from_rows([{"text": "a"}, {"text": "zz"}], PLAIN, "memory")

    with pytest.raises(DataError, match="memory, row 2, field text: found text without any token"):
        encode(table, empty, PLAIN, task="causal_lm")


def test_an_empty_selection_encodes_to_nothing(bpe: Any) -> None:
    """A site that got no records has a report of zeros."""
    table = table_from_rows([{"text": "chest"}], PLAIN, "memory").select([])

    encoded = encode(table, bpe, PLAIN, task="causal_lm")

    assert encoded.records == ()
    assert (encoded.report.records, encoded.report.tokens, encoded.report.longest) == (0, 0, 0)


def test_records_cannot_be_written_to(bpe: Any) -> None:
    """A record is a value."""
    record = encode(table_from_rows([{"text": "chest"}], PLAIN, "m"), bpe, PLAIN, task="causal_lm").records[0]

    with pytest.raises(ValueError, match="read-only"):
        record.input_ids[0] = 1
