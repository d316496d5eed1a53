"""Chats: what the assistant says is learned, whichever way the template shows it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizer

from partsong.client.data.encode import Encoded, encode
from partsong.client.data.table import table_from_rows
from partsong.common.config import DataConfig
from partsong.common.errors import ConfigError, DataError, ModelError

PLAIN = DataConfig()
TALK = [("user", "is it clear"), ("assistant", "the chest is"), ("user", "and the heart"), ("assistant", "large 😀")]


def chat(turns: list[tuple[str, str]], tokenizer: Any, config: DataConfig = PLAIN) -> Encoded:
    """Encode one chat."""
    rows = [{"messages": [{"role": role, "content": content} for role, content in turns]}]
    return encode(table_from_rows(rows, config, "memory"), tokenizer, config, task="causal_lm")


def learned(encoded: Encoded, tokenizer: Any) -> str:
    """Return as text what loss is taken on."""
    record = encoded.records[0]
    return str(tokenizer.decode(record.labels[record.labels != -100]))


@pytest.fixture(scope="session")
def marked(tmp_path_factory: pytest.TempPathFactory, marked_chatml: str) -> DataConfig:
    """Settings with a template that marks the assistant."""
    path = tmp_path_factory.mktemp("template") / "chat.jinja"
    path.write_text(marked_chatml, encoding="utf-8")
    return replace(PLAIN, chat_template_path=str(path))


def test_what_the_assistant_says_and_the_end_of_its_turn_are_learned(bpe: Any) -> None:
    """Not the header before it, and not the line end behind it."""
    encoded = chat(TALK, bpe)

    assert learned(encoded, bpe) == "the chest is<|im_end|>large 😀<|im_end|>"
    assert bpe.decode(encoded.records[0].input_ids).startswith("<|im_start|>system\nYou are a helpful assistant")
    assert encoded.report.truncated == encoded.report.without_loss == 0


def test_a_space_that_closes_the_header_is_not_learned(bpe: Any, tmp_path: Path) -> None:
    """A token of spaces alone has an empty place just where the answer starts."""
    path = tmp_path / "chat.jinja"
    path.write_text(
        "{% for m in messages %}{{ m.role }}: {{ m.content }}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )

    encoded = chat([("user", "x"), ("assistant", "\nthe")], bpe, replace(PLAIN, chat_template_path=str(path)))

    assert learned(encoded, bpe) == "\nthe<|im_end|>"
    assert bpe.decode(encoded.records[0].input_ids).endswith("assistant: \nthe<|im_end|>")


def test_everything_but_the_first_token_is_learned_when_asked_for(bpe: Any) -> None:
    """`assistant_only_loss=false` learns the whole rendering."""
    encoded = chat(TALK, bpe, replace(PLAIN, assistant_only_loss=False))

    rendered = bpe.apply_chat_template([{"role": r, "content": c} for r, c in TALK], tokenize=False)
    assert bpe.decode(encoded.records[0].input_ids) == rendered
    assert learned(encoded, bpe) == rendered.removeprefix("<|im_start|>")


contents = st.text(alphabet="ab the\n.é😀", min_size=1, max_size=15).filter(lambda t: t.strip() and t == t.lstrip())


@settings(deadline=None)
@given(st.sampled_from([[], [("system", "be brief")]]), st.lists(st.tuples(contents, contents), min_size=1, max_size=4))
def test_both_ways_find_the_same_tokens(
    bpe: Any, marked: DataConfig, system: list[tuple[str, str]], pairs: list[tuple[str, str]]
) -> None:
    """Against transformers' own assistant mask, for a template with and without marks that render alike."""
    turns = [*system] + [turn for q, a in pairs for turn in (("user", q), ("assistant", a))]

    gained, shown = chat(turns, bpe).records[0], chat(turns, bpe, marked).records[0]

    assert list(gained.input_ids) == list(shown.input_ids)
    assert list(gained.labels) == list(shown.labels)


def test_a_chat_too_long_loses_its_end_and_may_keep_nothing_to_learn(bpe: Any) -> None:
    """A record whose answers were all cut off stays, and is counted."""
    whole = chat(TALK, bpe)

    cut = chat(TALK, bpe, replace(PLAIN, max_length=10))

    assert list(cut.records[0].input_ids) == list(whole.records[0].input_ids[:10])
    assert learned(cut, bpe) == ""
    assert (cut.report.truncated, cut.report.without_loss) == (1, 1)
    assert cut.report.tokens_cut == whole.report.tokens - 10
    assert cut.report.longest == whole.report.tokens


def test_a_template_that_rewrites_earlier_turns_is_refused(bpe: Any, tmp_path: Path) -> None:
    """One that shortens all answers but the last, as reasoning models do; a single answer is still fine."""
    path = tmp_path / "chat.jinja"
    path.write_text(
        "{% for m in messages %}<|im_start|>{{ m.role }}\n"
        "{{ m.content if loop.last or m.role == 'user' else m.content[:3] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    config = replace(PLAIN, chat_template_path=str(path))

    with pytest.raises(DataError, match=r"memory, row 1, field messages: found a chat template that renders turn 2"):
        chat(TALK, bpe, config)

    assert learned(chat(TALK[:2], bpe, config), bpe) == "the chest is<|im_end|>"
    assert chat(TALK, bpe, replace(config, assistant_only_loss=False)).report.records == 1


@pytest.mark.parametrize(
    ("turns", "says"),
    [
        ([("user", "Smith")], "no token that the assistant says"),
        ([("assistant", "Smith"), ("user", "x")], "the assistant in the first turn"),
    ],
)
def test_a_chat_with_nothing_to_learn_from_is_named(bpe: Any, turns: list[tuple[str, str]], says: str) -> None:
    """Such a record is a fault of the data, unlike one that was cut."""
    with pytest.raises(DataError, match=f"memory, row 1, field messages: found {says}"):
        chat(turns, bpe)


def test_a_marking_template_that_marks_nothing_is_named(bpe: Any, marked: DataConfig) -> None:
    """The same fault seen the other way."""
    with pytest.raises(DataError, match="no token that the assistant says"):
        chat([("user", "x")], bpe, marked)


def test_what_a_template_raises_is_not_repeated(bpe: Any, tmp_path: Path) -> None:
    """A template may put the chat into its error; only the kind of error is passed on."""
    path = tmp_path / "chat.jinja"
    path.write_text("{{ raise_exception('no: ' + messages[0].content) }}")

    with pytest.raises(DataError, match=r"does not render \(TemplateError\)") as caught:
        chat([("user", "Smith"), ("assistant", "x")], bpe, replace(PLAIN, chat_template_path=str(path)))

    assert "Smith" not in str(caught.value)
    assert caught.value.__suppress_context__
    assert "Smith" in str(caught.value.__context__)


class Letters(PreTrainedTokenizer):
    """A tokenizer in Python, which keeps no character positions."""

    @property
    def vocab_size(self) -> int:
        return 0x110000

    def get_vocab(self) -> dict[str, int]:
        return {}

    def _tokenize(self, text: str, **_: Any) -> list[str]:
        return list(text)

    def _convert_token_to_id(self, token: str) -> int:
        return ord(token)


def test_assistant_turns_need_a_tokenizer_with_character_positions(bpe: Any) -> None:
    """Without them there is no telling which token belongs to whom; the whole chat can still be learned."""
    letters = Letters()
    letters.chat_template = bpe.chat_template

    with pytest.raises(ModelError, match="no character positions"):
        chat(TALK, letters)

    assert len(chat(TALK, letters, replace(PLAIN, assistant_only_loss=False)).records[0].input_ids) > 100


def test_a_missing_template_is_answered_with_the_setting(bpe: Any, bert: Any, tmp_path: Path) -> None:
    """No template in the tokenizer, and no file where one was named."""
    with pytest.raises(ModelError, match=r"no chat template.*data\.chat_template_path"):
        chat(TALK, bert)
    with pytest.raises(ConfigError, match=r"data\.chat_template_path: found a file that cannot be read"):
        chat(TALK, bpe, replace(PLAIN, chat_template_path=str(tmp_path / "no")))
