"""Chats as token sequences, with the tokens that the assistant says marked.

Two ways to find them. A template with `{% generation %}` marks them itself. For any other one each assistant turn is
what the rendering gains when that turn is added to the turns before it; this holds only if adding a turn leaves what
stood before untouched, so a template for which it does not (one that strips the reasoning of earlier turns, say)
is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from partsong.client.data.schema import Row
from partsong.client.data.table import Table
from partsong.client.data.tokens import TEXTS_AT_ONCE, BoolVec, IntVec, Tokenizer
from partsong.common.config import DataConfig
from partsong.common.errors import ConfigError, DataError, ModelError

_GENERATION = re.compile(r"\{%[-+]?\s*generation\s*[-+]?%\}")

Span = tuple[int, int]
"""First and behind the last character of what one assistant turn says."""


def chat_sequences(table: Table, tokenizer: Tokenizer, config: DataConfig) -> Iterator[tuple[IntVec, BoolVec]]:
    """Render and tokenise every chat, uncut.

    Yields: token ids (T,) and, of the same shape, whether the token is learned: with `assistant_only_loss` what the
        assistant says and the mark that ends its turn, without the white space behind that mark; else every token.
    Raises:
        ConfigError: the file of `chat_template_path` cannot be read.
        ModelError: there is no template, or a tokenizer without character positions.
        DataError: a chat that the template does not render or whose assistant turns cannot be told apart.
    """
    template = _template(tokenizer, config)
    if config.assistant_only_loss and not tokenizer.is_fast:
        raise ModelError("tokenizer", found="no character positions", expected="a fast tokenizer for chats")
    for start in range(0, len(table), TEXTS_AT_ONCE):
        rows = table.rows[start : start + TEXTS_AT_ONCE]
        chunk = _chats(rows, table, tokenizer, template, config.messages_field)
        if not config.assistant_only_loss:
            found = _everything(chunk, tokenizer)
        elif _GENERATION.search(template):
            found = (chat.marked() for chat in chunk)
        else:
            found = _gained(chunk, tokenizer)
        for chat, (ids_T, learned_T) in zip(chunk, found, strict=True):
            if not learned_T.any():
                raise chat.error(found="no token that the assistant says", expected="at least one")
            yield ids_T, learned_T


def _template(tokenizer: Tokenizer, config: DataConfig) -> str:
    if config.chat_template_path is not None:
        try:
            return Path(config.chat_template_path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as err:
            found = "a file that cannot be read"
            raise ConfigError("data.chat_template_path", found=found, expected="a Jinja file in UTF-8") from err
    try:
        return tokenizer.get_chat_template()
    except ValueError as err:
        remedy = "name a Jinja file with data.chat_template_path"
        raise ModelError("tokenizer", found="no chat template", expected="one, for chats", remedy=remedy) from err


@dataclass(frozen=True, kw_only=True, slots=True)
class _Chat:
    """One chat and what renders it."""

    turns: list[dict[str, str]]
    place: str
    tokenizer: Tokenizer
    template: str

    def error(self, *, found: str, expected: str, remedy: str | None = None) -> DataError:
        return DataError(self.place, found=found, expected=expected, remedy=remedy)

    def render(self, num_turns: int, **options: bool) -> str:
        return str(self._apply(num_turns, tokenize=False, **options))

    def marked(self) -> tuple[IntVec, BoolVec]:
        options = {"return_dict": True, "return_assistant_tokens_mask": True, "tokenizer_kwargs": {"verbose": False}}
        both = self._apply(len(self.turns), **options)
        return np.asarray(both["input_ids"], dtype=np.int32), np.asarray(both["assistant_masks"], dtype=np.bool_)

    def _apply(self, num_turns: int, **options: Any) -> Any:
        try:
            return self.tokenizer.apply_chat_template(self.turns[:num_turns], chat_template=self.template, **options)
        except Exception as err:  # noqa: BLE001 - a template is a foreign program: it may raise anything
            # Not chained: a template may put the chat into the text of its error.
            found = f"turns that the chat template does not render ({type(err).__name__})"
            raise self.error(found=found, expected="roles in the order that the template wants") from None


def _chats(rows: Sequence[Row], table: Table, tokenizer: Tokenizer, template: str, field: str) -> list[_Chat]:
    return [
        _Chat(
            turns=[{"role": role, "content": content} for role, content in row.parts],
            place=f"{table.source}, row {row.number}, field {field}",
            tokenizer=tokenizer,
            template=template,
        )
        for row in rows
    ]


def _everything(chats: list[_Chat], tokenizer: Tokenizer) -> Iterator[tuple[IntVec, BoolVec]]:
    texts = [chat.render(len(chat.turns)) for chat in chats]
    for ids in tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]:
        yield np.asarray(ids, dtype=np.int32), np.ones(len(ids), dtype=np.bool_)


def _gained(chats: list[_Chat], tokenizer: Tokenizer) -> Iterator[tuple[IntVec, BoolVec]]:
    texts = [chat.render(len(chat.turns)) for chat in chats]
    spans = [_spans(chat, text) for chat, text in zip(chats, texts, strict=True)]
    out = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    for ids, offsets, said in zip(out["input_ids"], out["offset_mapping"], spans, strict=True):
        yield np.asarray(ids, dtype=np.int32), _inside(offsets, said)


def _spans(chat: _Chat, whole: str) -> list[Span]:
    spans = []
    for i, turn in enumerate(chat.turns):
        if turn["role"] != "assistant":
            continue
        if i == 0:
            raise chat.error(found="the assistant in the first turn", expected="a system or user turn before it")
        before = chat.render(i, add_generation_prompt=True)
        after = chat.render(i + 1)
        if not (whole.startswith(before) and whole.startswith(after) and len(after) > len(before)):
            raise chat.error(
                found=f"a chat template that renders turn {i + 1} otherwise once more turns follow",
                expected="one that only appends",
                remedy="set data.chat_template_path to one with {% generation %}, or data.assistant_only_loss=false",
            )
        spans.append((len(before), len(after.rstrip())))
    return spans


def _inside(offsets: list[Span], spans: list[Span]) -> BoolVec:
    """Mark tokens that lie wholly in a span.

    A byte-level tokenizer that trims offsets gives a token of spaces alone an empty place at its end; asking for an
    end behind the start of the span keeps a space that closes the header of a turn out.
    """
    places_T2 = np.asarray(offsets, dtype=np.int64).reshape(-1, 2)
    learned_T = np.zeros(len(places_T2), dtype=np.bool_)
    for first, behind in spans:
        learned_T |= (places_T2[:, 0] >= first) & (places_T2[:, 1] > first) & (places_T2[:, 1] <= behind)
    return learned_T
