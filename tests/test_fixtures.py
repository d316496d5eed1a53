"""The two tiny base models under tests/fixtures: small, pretrained, and what their README says."""

import hashlib
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from partsong.simulations.builtin import icd10, load

FIXTURES = Path(__file__).parent / "fixtures"
LLAMA, BERT = FIXTURES / "tiny-llama", FIXTURES / "tiny-bert"
LINES = (
    "Fracture of the lower end of the left radius, closed",
    "Malignant neoplasm of the upper lobe of the right lung",
    "Chronic kidney disease with heart failure",
    "Acute infection of the urinary tract in pregnancy",
    "Diabetes mellitus with diabetic retinopathy of both eyes",
)
CHAT = [
    {"role": "system", "content": "Answer in one word."},
    {"role": "user", "content": "Which chapter is cholera in?"},
    {"role": "assistant", "content": "Infection"},
    {"role": "user", "content": "And glaucoma?"},
    {"role": "assistant", "content": "Eye"},
]

BOTH = pytest.mark.parametrize("folder", [LLAMA, BERT], ids=lambda folder: folder.name)


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tokenizer_of(folder: Path):
    """Read the tokenizer from the folder alone."""
    return AutoTokenizer.from_pretrained(folder, local_files_only=True)


def model_of(folder: Path):
    """Read the pretrained model from the folder alone, with what could not be matched."""
    kind = AutoModelForCausalLM if folder == LLAMA else AutoModelForMaskedLM
    return kind.from_pretrained(folder, local_files_only=True, output_loading_info=True)


def random_model_of(folder: Path):
    """The same architecture as it is before pretraining."""
    kind = AutoModelForCausalLM if folder == LLAMA else AutoModelForMaskedLM
    torch.manual_seed(0)
    return kind.from_config(model_of(folder)[0].config).eval()


@torch.no_grad()
def loss_of(model, folder: Path) -> float:
    """Mean loss per token of LINES: of the next token, or of every fourth token hidden behind the mask."""
    tokenizer = tokenizer_of(folder)
    losses = []
    for line in LINES:
        ids_BT = tokenizer(line, return_tensors="pt")["input_ids"]
        labels_BT = ids_BT.clone()
        if folder == BERT:
            hidden_BT = torch.zeros_like(ids_BT, dtype=torch.bool)
            hidden_BT[:, 2:-1:4] = True
            labels_BT = labels_BT.masked_fill(~hidden_BT, -100)
            ids_BT = ids_BT.masked_fill(hidden_BT, tokenizer.mask_token_id)
        losses.append(model(input_ids=ids_BT, labels=labels_BT).loss.item())
    return sum(losses) / len(losses)


@BOTH
def test_a_fixture_loads_completely_and_in_float32(folder: Path) -> None:
    """Every weight of the language model comes from the file, in the precision that tests compute in."""
    model, info = model_of(folder)

    assert not info["missing_keys"]
    assert not info["mismatched_keys"]
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_the_fixtures_are_small() -> None:
    """Below a million parameters and 2 MB the Llama, 0.4 million the BERT, 3.5 MB all the weights."""
    size = {folder: (folder / "model.safetensors").stat().st_size for folder in (LLAMA, BERT)}

    assert model_of(LLAMA)[0].num_parameters() <= 1_000_000
    assert model_of(BERT)[0].num_parameters() <= 400_000
    assert size[LLAMA] <= 2_000_000
    assert sum(size.values()) <= 3_500_000


def test_the_llama_has_what_tests_should_meet() -> None:
    """Grouped queries and tied embeddings: the two traits that adapters and exports trip over."""
    config = model_of(LLAMA)[0].config

    assert (config.num_attention_heads, config.num_key_value_heads) == (4, 2)
    assert config.tie_word_embeddings


def test_the_bert_classifies_with_a_new_head_alone() -> None:
    """Body and pooler come from the file; what a classifier adds is its head."""
    _, info = AutoModelForSequenceClassification.from_pretrained(
        BERT, num_labels=3, local_files_only=True, output_loading_info=True
    )

    assert set(info["missing_keys"]) == {"classifier.weight", "classifier.bias"}


@BOTH
def test_the_base_is_pretrained(folder: Path) -> None:
    """Perplexity on medical lines is under a twentieth of what random weights of the same shape reach."""
    pretrained, untrained = loss_of(model_of(folder)[0].eval(), folder), loss_of(random_model_of(folder), folder)

    assert math.exp(pretrained) < math.exp(untrained) / 20
    assert abs(untrained - math.log(model_of(folder)[0].config.vocab_size)) < 1.0


@torch.no_grad()
def test_the_base_does_not_know_the_task() -> None:
    """The chapter of a held-out diagnosis costs more than guessing among 19 does: fine-tuning has work to do."""
    model, tokenizer = model_of(LLAMA)[0].eval(), tokenizer_of(LLAMA)
    losses = []
    for row in load("icd10", style="prompt_completion").held_out[:40]:
        prompt, whole = tokenizer(row["prompt"])["input_ids"], tokenizer(row["prompt"] + row["completion"])["input_ids"]
        assert whole[: len(prompt)] == prompt
        ids_BT = torch.tensor([whole])
        labels_BT = torch.tensor([[-100] * len(prompt) + whole[len(prompt) :]])
        losses.append(model(input_ids=ids_BT, labels=labels_BT).loss.item() * (len(whole) - len(prompt)))

    assert sum(losses) / len(losses) > 2 * math.log(19)


@BOTH
def test_the_readme_was_made_under_todays_split(folder: Path) -> None:
    """Base and task hold out the same categories, or the base saw what the task tests."""
    digest = hashlib.sha256(" ".join(sorted(icd10.held_out_categories())).encode()).hexdigest()

    readme = (folder / "README.md").read_text(encoding="utf-8")

    assert digest in readme, "the held-out categories changed: run the command in the README again"
    assert "python scripts/make_tiny_base.py --seed 7 --out tests/fixtures" in readme


@BOTH
@settings(deadline=None, max_examples=60)
@given(text=st.text(max_size=60))
def test_any_text_comes_back_from_its_tokens(folder: Path, text: str) -> None:
    """Byte-level BPE loses nothing, whatever the script or the spaces."""
    tokenizer = tokenizer_of(folder)

    ids = tokenizer(text, add_special_tokens=False)["input_ids"]

    assert tokenizer.decode(ids) == text


def test_the_tokens_with_a_role_are_distinct() -> None:
    """Begin, end and padding are three tokens; the model's configuration names the same."""
    tokenizer, config = tokenizer_of(LLAMA), model_of(LLAMA)[0].config
    roles = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)

    assert len(set(roles)) == 3
    assert roles == (config.bos_token_id, config.eos_token_id, config.pad_token_id)
    assert tokenizer("<|im_end|>")["input_ids"] == [tokenizer.eos_token_id]


def test_texts_are_framed_for_the_encoder_and_not_for_the_llama() -> None:
    """One fixture adds tokens around a text and one does not, as real models differ."""
    bert, llama = tokenizer_of(BERT), tokenizer_of(LLAMA)

    assert bert.decode(bert("Cholera")["input_ids"]) == "[CLS]Cholera[SEP]"
    assert llama.decode(llama("Cholera")["input_ids"]) == "Cholera"


def test_the_chat_template_renders_chatml() -> None:
    """Each message is framed by its role and its end; the prompt for an answer opens the assistant's."""
    text = tokenizer_of(LLAMA).apply_chat_template(CHAT[1:2], tokenize=False, add_generation_prompt=True)

    assert text == "<|im_start|>user\nWhich chapter is cholera in?<|im_end|>\n<|im_start|>assistant\n"


def test_the_assistant_mask_covers_the_answers_and_their_ends() -> None:
    """What the assistant says is learned, with the token that ends it, and nothing else."""
    tokenizer = tokenizer_of(LLAMA)

    chat = tokenizer.apply_chat_template(CHAT, return_assistant_tokens_mask=True, return_dict=True)

    said = [token for token, mask in zip(chat["input_ids"], chat["assistant_masks"], strict=True) if mask]
    rest = [token for token, mask in zip(chat["input_ids"], chat["assistant_masks"], strict=True) if not mask]
    assert tokenizer.decode(said) == "Infection<|im_end|>Eye<|im_end|>"
    assert tokenizer.decode(rest).count("<|im_end|>") == 3
