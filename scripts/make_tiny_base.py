"""Make the two tiny base models that the tests train on: a Llama and a BERT, pretrained on ICD-10-CM titles.

    python scripts/make_tiny_base.py --seed 7 --out tests/fixtures

A base that knows some language shows mistakes that random weights hide: a shifted label, a missing mask or a
wrong scale costs a pretrained model what it knew. The two know the language of the built-in task and not the
task: they saw titles of codes outside the held-out categories, and no record of the task itself.

One thread and deterministic kernels: the same versions on the same kind of processor give the same bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import math
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

os.environ["TOKENIZERS_PARALLELISM"] = "false"  # before the import; merges are then counted in one order

import simple_icd_10_cm as icd
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    BertConfig,
    BertForPreTraining,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from partsong.simulations.builtin import icd10

VOCAB_SIZE = 1024
LLAMA_TOKENS = {"pad_token": "<|pad|>", "bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}
BERT_TOKENS = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
"""Special tokens take the first ids, in this order."""
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}"
    "{% else %}{{ message['content'] + '<|im_end|>' }}{% endif %}"
    "{{ '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
SEQUENCE_LENGTH = 64  # of the Llama, titles in a row
TITLE_LENGTH = 32  # of the BERT, one title
CHAT_EVERY = 8  # one title in eight is asked for in a chat, so that the chat's tokens are trained too
DROPOUT = 0.1  # BERT's own, written to its configuration so that tests meet it; off in this short pretraining
IGNORED = -100  # label that the loss leaves out


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """How long and how fast one model is pretrained."""

    steps: int
    batch: int
    """Sequences a step."""
    learning_rate: float
    """Peak, reached after a tenth of the steps; a cosine brings it down to a tenth."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Corpus:
    """Titles of codes as (code, title), parted as the built-in task parts its records."""

    train: tuple[tuple[str, str], ...]
    held_out: tuple[tuple[str, str], ...]
    held_out_sha256: str
    """Of the sorted held-out categories: another rule of the built-in task calls for another base."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Made:
    """What the README of a fixture states."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    schedule: Schedule
    loss_before: float
    loss_after: float
    seconds: float


def read_corpus() -> Corpus:
    """Titles of the categories and subcategories of the task's chapters, less every text of its records."""
    held_out = icd10.held_out_categories()
    task = icd10.load(style="text_label")
    rows = [row for site in task.sites.values() for row in site] + list(task.held_out)
    seen = {row["text"].lower() for row in rows}
    parts: dict[bool, list[tuple[str, str]]] = {False: [], True: []}
    for code in icd.get_all_codes():
        plain = not icd.is_chapter_or_block(code) and not icd.is_extended_subcategory(code)
        if not plain or icd.get_ancestors(code)[-1] not in icd10.CHAPTERS:
            continue
        title = " ".join(icd.get_description(code).split())
        if title.lower() not in seen:
            seen.add(title.lower())
            parts[code[:3] in held_out].append((code, title))
    digest = hashlib.sha256(" ".join(sorted(held_out)).encode()).hexdigest()
    return Corpus(train=tuple(parts[False]), held_out=tuple(parts[True]), held_out_sha256=digest)


def train_bpe(titles: Sequence[str], *, special_tokens: Sequence[str]) -> Tokenizer:
    """Byte-level BPE: every string has tokens and comes back from them unchanged."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=list(special_tokens),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(titles, trainer)
    return bpe


def llama_tokenizer(titles: Sequence[str]) -> PreTrainedTokenizerFast:
    """ChatML tokens as begin and end, a third one for padding, and nothing added around plain text."""
    bpe = train_bpe(titles, special_tokens=tuple(LLAMA_TOKENS.values()))
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        **LLAMA_TOKENS,
        chat_template=CHAT_TEMPLATE,
        model_max_length=256,
        clean_up_tokenization_spaces=False,
    )


def bert_tokenizer(titles: Sequence[str]) -> PreTrainedTokenizerFast:
    """BERT's five special tokens over the same kind of BPE; texts are framed by [CLS] and [SEP]."""
    bpe = train_bpe(titles, special_tokens=tuple(BERT_TOKENS.values()))
    bpe.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(word, bpe.token_to_id(word)) for word in ("[CLS]", "[SEP]")],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        **BERT_TOKENS,
        model_max_length=128,
        clean_up_tokenization_spaces=False,
    )


def llama_config(tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    """Four layers with grouped queries and tied embeddings: about 0.47 M parameters."""
    return LlamaConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=96,
        intermediate_size=224,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def bert_config(tokenizer: PreTrainedTokenizerFast) -> BertConfig:
    """Three layers: about 0.36 M parameters. The initial scale suits the width; BERT's own is for 768 and up."""
    return BertConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=96,
        intermediate_size=192,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=128,
        initializer_range=0.06,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        pad_token_id=tokenizer.pad_token_id,
    )


def llama_sequences(pairs: Sequence[tuple[str, str]], tokenizer: PreTrainedTokenizerFast) -> torch.Tensor:
    """Titles in a row, each closed by the end token, cut into equal sequences; the rest is left out.

    Returns:
        (N, SEQUENCE_LENGTH) token ids.
    """
    texts = []
    for position, (code, title) in enumerate(pairs):
        if position % CHAT_EVERY:
            texts.append(title + tokenizer.eos_token)
        else:
            chat = [{"role": "user", "content": code}, {"role": "assistant", "content": title}]
            texts.append(tokenizer.apply_chat_template(chat, tokenize=False))
    ids = torch.tensor([token for row in tokenizer(texts)["input_ids"] for token in row])
    whole = len(ids) // SEQUENCE_LENGTH * SEQUENCE_LENGTH
    return ids[:whole].view(-1, SEQUENCE_LENGTH)


def bert_sequences(pairs: Sequence[tuple[str, str]], tokenizer: PreTrainedTokenizerFast) -> torch.Tensor:
    """One title a row, padded or cut to (N, TITLE_LENGTH) token ids: as tests use the model.

    Titles packed into long rows teach a model of this size little more than the frequency of tokens.
    """
    titles = [title for _, title in pairs]
    rows = tokenizer(titles, truncation=True, padding="max_length", max_length=TITLE_LENGTH, return_tensors="pt")
    ids_NT: torch.Tensor = rows["input_ids"]
    return ids_NT


def llama_loss(model: PreTrainedModel, ids_BT: torch.Tensor) -> torch.Tensor:
    """Mean loss of the next token."""
    loss: torch.Tensor = model(input_ids=ids_BT, labels=ids_BT).loss
    return loss


def bert_loss(model: PreTrainedModel, ids_BT: torch.Tensor) -> torch.Tensor:
    """Mean loss of the hidden tokens: 15 % of the text, eight in ten of them shown as [MASK], one as another token.

    Source: Devlin et al. 2019, section 3.1; without the next-sentence task.
    """
    names = list(BERT_TOKENS)
    pad, mask, first_free = names.index("pad_token"), names.index("mask_token"), len(names)
    attention_BT = (ids_BT != pad).long()
    chosen_BT = (torch.rand(ids_BT.shape) < 0.15) & (ids_BT >= first_free)
    fate_BT = torch.rand(ids_BT.shape)
    random_BT = torch.randint(first_free, VOCAB_SIZE, ids_BT.shape)
    shown_BT = torch.where(chosen_BT & (fate_BT < 0.8), mask, ids_BT)
    shown_BT = torch.where(chosen_BT & (fate_BT >= 0.9), random_BT, shown_BT)
    scores = model(input_ids=shown_BT, attention_mask=attention_BT).prediction_logits
    labels_BT = torch.where(chosen_BT, ids_BT, IGNORED)
    return torch.nn.functional.cross_entropy(scores.flatten(0, 1), labels_BT.flatten(), ignore_index=IGNORED)


Loss = Callable[[PreTrainedModel, torch.Tensor], torch.Tensor]


def batches(sequences_NT: torch.Tensor, schedule: Schedule) -> Iterator[torch.Tensor]:
    """One batch a step, in a new order for each pass over the sequences."""
    order: list[int] = []
    for _ in range(schedule.steps):
        if len(order) < schedule.batch:
            order = torch.randperm(len(sequences_NT)).tolist()
        yield sequences_NT[order[: schedule.batch]]
        order = order[schedule.batch :]


def mean_loss(model: PreTrainedModel, sequences_NT: torch.Tensor, loss: Loss) -> float:
    """Loss on the first 512 sequences, under one fixed draw of hidden tokens that leaves the training's own alone."""
    model.eval()
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        parts = [loss(model, part).item() for part in torch.split(sequences_NT[:512], 64)]
    return sum(parts) / len(parts)


def pretrain(model: PreTrainedModel, sequences_NT: torch.Tensor, *, loss: Loss, schedule: Schedule) -> None:
    """AdamW with warm-up and cosine decay, gradients clipped at norm 1."""
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=schedule.learning_rate, betas=(0.9, 0.95), weight_decay=0.05)
    warm_up = max(1, schedule.steps // 10)

    def rate(step: int) -> float:
        done = (step - warm_up) / (schedule.steps - warm_up)
        return (step + 1) / warm_up if step < warm_up else 0.55 + 0.45 * math.cos(math.pi * done)

    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    for step, ids_BT in enumerate(batches(sequences_NT, schedule)):
        value = loss(model, ids_BT)
        optimizer.zero_grad()
        torch.autograd.backward(value)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        if step % 100 == 0:
            print(f"step {step} of {schedule.steps}, loss {value.item():.3f}", flush=True)


def make_llama(corpus: Corpus, *, seed: int, schedule: Schedule) -> Made:
    """Tokenizer, random weights, pretraining."""
    torch.manual_seed(seed)
    tokenizer = llama_tokenizer([title for _, title in corpus.train])
    model = LlamaForCausalLM(llama_config(tokenizer))
    return _made(corpus, tokenizer, model, sequences=llama_sequences, loss=llama_loss, schedule=schedule)


def make_bert(corpus: Corpus, *, seed: int, schedule: Schedule) -> Made:
    """Tokenizer, random weights, pretraining. The pooler keeps its random weights: no task of a pair of texts."""
    torch.manual_seed(seed)
    tokenizer = bert_tokenizer([title for _, title in corpus.train])
    model = BertForPreTraining(bert_config(tokenizer))
    made = _made(corpus, tokenizer, model, sequences=bert_sequences, loss=bert_loss, schedule=schedule)
    model.config.hidden_dropout_prob = model.config.attention_probs_dropout_prob = DROPOUT
    return made


def _made(
    corpus: Corpus,
    tokenizer: PreTrainedTokenizerFast,
    model: PreTrainedModel,
    *,
    sequences: Callable[[Sequence[tuple[str, str]], PreTrainedTokenizerFast], torch.Tensor],
    loss: Loss,
    schedule: Schedule,
) -> Made:
    order = torch.randperm(len(corpus.train)).tolist()
    train_NT = sequences([corpus.train[position] for position in order], tokenizer)
    held_out_NT = sequences(corpus.held_out, tokenizer)
    before = mean_loss(model, held_out_NT, loss)
    start = time.monotonic()
    pretrain(model, train_NT, loss=loss, schedule=schedule)
    seconds = time.monotonic() - start
    after = mean_loss(model, held_out_NT, loss)
    return Made(
        model=model,
        tokenizer=tokenizer,
        schedule=schedule,
        loss_before=before,
        loss_after=after,
        seconds=seconds,
    )


def readme(made: Made, corpus: Corpus, *, title: str, command: str) -> str:
    """State where the fixture comes from and how to make it again."""
    versions = ", ".join(
        f"{name} {importlib.metadata.version(name)}"
        for name in ("torch", "transformers", "tokenizers", "safetensors", icd10.PACKAGE)
    )
    plan = made.schedule
    size = made.model.num_parameters()
    return f"""# {title}

A base model for tests: {size:,} parameters, a byte-level BPE of {VOCAB_SIZE} tokens, float32. Made by

    {command}

with Python {platform.python_version()}, {versions}; one thread, {made.seconds:.0f} s of pretraining.

Pretrained for {plan.steps} steps of {plan.batch} sequences (AdamW, peak rate {plan.learning_rate:g}) on
{len(corpus.train):,} titles of ICD-10-CM codes. Loss on the first 512 sequences made of the {len(corpus.held_out):,}
titles of the held-out categories: {made.loss_before:.2f} before, {made.loss_after:.2f} after.

The titles of the categories that the built-in task holds out are left out, and so is every text that is a
record of that task: the base knows the language, not the task. SHA-256 of the held-out categories:
`{corpus.held_out_sha256}`.

The text comes from the package simple-icd-10-cm (MIT). ICD-10-CM is published by the US National Center for
Health Statistics. The weights are under the licence of this repository.
"""


def save(made: Made, corpus: Corpus, folder: Path, *, title: str, command: str) -> None:
    """Write model, tokenizer and README; report in a line."""
    made.model.save_pretrained(folder)
    made.tokenizer.save_pretrained(folder)
    (folder / "README.md").write_text(readme(made, corpus, title=title, command=command), encoding="utf-8")
    size = (folder / "model.safetensors").stat().st_size
    print(f"{folder}: loss {made.loss_before:.3f} -> {made.loss_after:.3f}, {made.seconds:.0f} s, {size:,} bytes")


def main() -> None:
    """Read the command line, make both fixtures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path("tests/fixtures"), help="folder of the two fixtures")
    parser.add_argument("--llama-steps", type=int, default=1500)
    parser.add_argument("--bert-steps", type=int, default=1200)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(mode=True)
    transformers.utils.logging.disable_progress_bar()
    corpus = read_corpus()
    command = f"python scripts/make_tiny_base.py --seed {args.seed} --out {args.out}"
    command += f" --llama-steps {args.llama_steps} --bert-steps {args.bert_steps}"
    llama = make_llama(corpus, seed=args.seed, schedule=Schedule(steps=args.llama_steps, batch=32, learning_rate=4e-3))
    save(llama, corpus, args.out / "tiny-llama", title="tiny-llama", command=command)
    bert = make_bert(corpus, seed=args.seed, schedule=Schedule(steps=args.bert_steps, batch=128, learning_rate=2e-3))
    save(bert, corpus, args.out / "tiny-bert", title="tiny-bert", command=command)


if __name__ == "__main__":
    main()
