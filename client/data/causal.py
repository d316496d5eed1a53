"""Records as sequences for a causal language model: what is learned and what gives way when one is too long.

Labels stand at the position of the token they name (the model shifts them), so the first position never has one:
nothing stands before it to predict it from.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from partsong.client.data.chat import chat_sequences
from partsong.client.data.table import Table
from partsong.client.data.tokens import IGNORED, IntVec, Tokenizer, frame_of, part_ids
from partsong.common.config import DataConfig
from partsong.common.errors import ConfigError, ModelError


class Sequenced(NamedTuple):
    """One record, cut to length."""

    ids: IntVec
    labels: IntVec
    cut: int
    """Tokens that were cut off."""


def causal_sequences(table: Table, tokenizer: Tokenizer, config: DataConfig) -> Iterator[Sequenced]:
    """Turn records into sequences of at most `config.max_length` tokens.

    - text: the tokenizer's opening tokens, the text, the end-of-sequence token; all but the first token is learned;
      cut on the right. The label of a text_label record is not used.
    - prompt_completion: opening tokens, prompt, completion, end-of-sequence. Prompt and completion are tokenised each
      by itself, so that the completion starts at a token boundary just where it starts when the model is asked.
      Too long: the prompt gives way from its left, then the completion from its right; the opening tokens stay.
    - chat: as the template renders it, nothing appended; cut on the right.
    Raises:
        ModelError: the tokenizer has no end-of-sequence token, or no chat template.
        ConfigError: `max_length` leaves no room beside the opening tokens.
        DataError: a text without any token, a chat that the template does not render.
    """
    if table.kind == "chat":
        return _chat(table, tokenizer, config)
    if tokenizer.eos_token_id is None:
        raise ModelError("tokenizer", found="no end-of-sequence token", expected="one, to end a record with")
    prefix = frame_of(tokenizer).prefix
    if len(prefix) >= config.max_length:
        raise ConfigError("data.max_length", found=str(config.max_length), expected=f"more than {len(prefix)}")
    if table.kind == "prompt_completion":
        return _prompt_completion(table, tokenizer, config, prefix, tokenizer.eos_token_id)
    return _text(table, tokenizer, config, prefix, tokenizer.eos_token_id)


def _sequenced(ids: list[int], *, learned_from: int, cut: int) -> Sequenced:
    ids_T = np.asarray(ids, dtype=np.int32)
    labels_T = ids_T.copy()
    labels_T[: max(learned_from, 1)] = IGNORED
    return Sequenced(ids_T, labels_T, cut)


def _text(
    table: Table, tokenizer: Tokenizer, config: DataConfig, prefix: tuple[int, ...], eos: int
) -> Iterator[Sequenced]:
    for body in part_ids(table, tokenizer, part=0, field=config.text_field):
        ids = [*prefix, *body, eos]
        yield _sequenced(ids[: config.max_length], learned_from=1, cut=max(0, len(ids) - config.max_length))


def _prompt_completion(
    table: Table, tokenizer: Tokenizer, config: DataConfig, prefix: tuple[int, ...], eos: int
) -> Iterator[Sequenced]:
    room = config.max_length - len(prefix)
    prompts = part_ids(table, tokenizer, part=0, field=config.prompt_field)
    completions = part_ids(table, tokenizer, part=1, field=config.completion_field)
    for prompt, completion in zip(prompts, completions, strict=True):
        answer = [*completion, eos]
        kept_answer = answer[:room]
        kept_prompt = prompt[max(0, len(prompt) - (room - len(kept_answer))) :]
        ids = [*prefix, *kept_prompt, *kept_answer]
        start = len(ids) - len(kept_answer) if config.completion_only_loss else 1
        yield _sequenced(ids, learned_from=start, cut=len(prefix) + len(prompt) + len(answer) - len(ids))


def _chat(table: Table, tokenizer: Tokenizer, config: DataConfig) -> Iterator[Sequenced]:
    for ids_T, learned_T in chat_sequences(table, tokenizer, config):
        labels_T = np.where(learned_T, ids_T, IGNORED).astype(np.int32)
        labels_T[0] = IGNORED
        size = config.max_length
        yield Sequenced(ids_T[:size].copy(), labels_T[:size].copy(), max(0, len(ids_T) - size))
