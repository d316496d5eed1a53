"""The tokenizer as the rest of this package sees it: texts in, lists of numbers out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from partsong.client.data.table import Table
from partsong.common.errors import DataError

IntVec = npt.NDArray[np.int32]
BoolVec = npt.NDArray[np.bool_]

IGNORED = -100
"""Label of a position that is not learned; the value that `torch.nn.functional.cross_entropy` leaves out."""

TEXTS_AT_ONCE = 1000
"""Texts given to the tokenizer together: enough to use its threads, little enough to hold."""


class Tokenizer(Protocol):
    """What is used of a `transformers` tokenizer."""

    eos_token_id: int | None
    is_fast: bool

    def __call__(self, text: str | list[str], **options: Any) -> Any:
        """Turn texts into token ids."""

    def apply_chat_template(self, conversation: list[dict[str, str]], **options: Any) -> Any:
        """Render a conversation."""

    def get_chat_template(self, chat_template: str | None = None) -> str:
        """Return the template that would be used."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Frame:
    """The special tokens that a tokenizer puts around one text."""

    prefix: tuple[int, ...]
    suffix: tuple[int, ...]


def frame_of(tokenizer: Tokenizer) -> Frame:
    """Find out what the tokenizer puts around a text, by looking at one."""
    probe = tokenizer("a", return_special_tokens_mask=True, verbose=False)
    pairs = list(zip(probe["input_ids"], probe["special_tokens_mask"], strict=True))
    prefix = tuple(token for token, _ in takewhile(lambda pair: pair[1], pairs))
    suffix = tuple(token for token, _ in takewhile(lambda pair: pair[1], reversed(pairs[len(prefix) :])))
    return Frame(prefix=prefix, suffix=suffix[::-1])


def token_ids(tokenizer: Tokenizer, texts: Sequence[str]) -> Iterator[list[int]]:
    """Tokenise each text by itself, without special tokens around it and without a limit on its length."""
    for start in range(0, len(texts), TEXTS_AT_ONCE):
        chunk = list(texts[start : start + TEXTS_AT_ONCE])
        yield from tokenizer(chunk, add_special_tokens=False, verbose=False)["input_ids"]


def part_ids(table: Table, tokenizer: Tokenizer, *, part: int, field: str) -> Iterator[list[int]]:
    """Tokenise one part of every record.

    Raises:
        DataError: a text has no token in this vocabulary.
    """
    texts = [row.parts[part][1] for row in table.rows]
    for row, ids in zip(table.rows, token_ids(tokenizer, texts), strict=True):
        if not ids:
            place = f"{table.source}, row {row.number}, field {field}"
            raise DataError(place, found="text without any token", expected="text that the tokenizer knows")
        yield ids
