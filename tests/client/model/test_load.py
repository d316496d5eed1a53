"""From a configuration to a host that trains."""

import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from partsong.client.data.batch import pad
from partsong.client.data.encode import Record
from partsong.client.model.host import ModelHost
from partsong.client.model.load import load, pick_device
from partsong.common.config import AdapterConfig, ModelConfig
from partsong.common.errors import ModelError

MakeHost = Callable[..., ModelHost]
MakeRecords = Callable[..., tuple[Record, ...]]
FIXTURES = Path(__file__).parents[2] / "fixtures"


def copy_of(base: str, folder: Path) -> Path:
    """A base that a test may damage."""
    return Path(shutil.copytree(FIXTURES / base, folder / base, copy_function=shutil.copy))


def change_json(file: Path, **changes: Any) -> None:
    """Set keys; ... takes one away."""
    tree = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({k: v for k, v in tree.items() if v is not ...}))


@pytest.mark.parametrize("wish", ["quantum", "cuda:99", "", "cuda:x"])
def test_a_device_that_is_not_there_is_named(wish: str) -> None:
    """The error lists what is there."""
    with pytest.raises(ModelError, match=r"model\.device: found .* expected auto or one of cpu"):
        pick_device(wish)


def test_auto_and_cpu_are_devices() -> None:
    """Control: what is there is taken."""
    assert pick_device("cpu").type == "cpu"
    assert pick_device("auto").type in {"cpu", "cuda", "mps"}


@pytest.mark.parametrize(("task", "labels"), [("causal_lm", ("a", "b")), ("classification", ())])
def test_labels_that_do_not_go_with_the_task_are_refused(task: Any, labels: tuple[str, ...]) -> None:
    """Classes for classification, none for a language model."""
    with pytest.raises(ModelError, match=r"data\.labels"):
        load(ModelConfig(source=str(FIXTURES / "tiny-llama"), task=task), AdapterConfig(), labels=labels)


def test_nf4_without_bitsandbytes_says_what_to_install(make_host: MakeHost) -> None:
    """The profile exists; its package is optional."""
    if importlib.util.find_spec("bitsandbytes"):
        pytest.skip("bitsandbytes is installed")

    with pytest.raises(ModelError, match=r"found nf4, expected bitsandbytes; pip install 'partsong\[gpu\]'"):
        make_host(model={"quantization": "nf4"})


@pytest.mark.parametrize("base", ["tiny-llama", "tiny-bert"])
def test_dropout_is_off_also_in_training_mode(
    base: str, make_host: MakeHost, make_records: MakeRecords, tmp_path: Path
) -> None:
    """Two passes in training mode give the same losses, though the base was configured with dropout."""
    folder = copy_of(base, tmp_path)
    change_json(folder / "config.json", attention_dropout=0.5, hidden_dropout_prob=0.5, classifier_dropout=0.5)
    host, records = make_host(base, model={"source": str(folder)}), make_records()

    with host.training():
        twice = [host.loss_B(pad(records, pad_id=host.pad_id)).detach() for _ in range(2)]

    assert torch.equal(*twice)
    host.model.eval()
    assert torch.equal(twice[0], host.loss_B(pad(records, pad_id=host.pad_id)).detach())


def test_dropout_would_be_noticed(make_host: MakeHost, make_records: MakeRecords) -> None:
    """Control: with dropout switched on by hand, the two passes differ."""
    host, records = make_host("tiny-bert"), make_records()
    for module in host.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5

    with host.training():
        twice = [host.loss_B(pad(records, pad_id=host.pad_id)).detach() for _ in range(2)]

    assert not torch.equal(*twice)


@pytest.mark.parametrize("base", ["tiny-llama", "tiny-bert"])
@pytest.mark.parametrize("method", ["ffa", "fedit"])
def test_only_the_adapter_requires_gradients_and_it_is_float32(base: str, method: str, make_host: MakeHost) -> None:
    """Base weights are frozen; also on a bfloat16 base the LoRA tensors are float32."""
    host = make_host(base, model={"dtype": "bfloat16"}, method=method, train_head=False)

    trained = [name for name, p in host.model.named_parameters() if p.requires_grad]

    assert trained
    assert all(".lora_B." in n or (method == "fedit" and ".lora_A." in n) for n in trained)
    assert all(p.dtype == torch.float32 for n, p in host.model.named_parameters() if ".lora_" in n)
    assert any(p.dtype == torch.bfloat16 for p in host.model.parameters())
    assert len(host.trainable()) == len(trained)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_head_that_is_trained_is_part_of_the_update_and_float32(dtype: str, make_host: MakeHost) -> None:
    """Also on a base of half precision, where it would otherwise be clipped and noised in as few bits."""
    host = make_host("tiny-bert", model={"dtype": dtype})

    trained = {t.name for t in host.layout.trained}

    assert {"base_model.model.classifier.weight", "base_model.model.classifier.bias"} < trained
    assert all(p.dtype == torch.float32 for p in host.trainable())


def test_a_head_on_a_base_of_half_precision_reads_float32(make_host: MakeHost, make_records: MakeRecords) -> None:
    """Its logits are those of float32 features; the losses are near those of a base in float32."""
    half, full = (make_host("tiny-bert", model={"dtype": dtype}) for dtype in ("bfloat16", "float32"))
    read: list[torch.dtype] = []
    head = half.model.get_submodule("base_model.model.classifier.modules_to_save.default")
    head.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0].dtype))
    batch = pad(make_records(), pad_id=half.pad_id)

    losses = [host.loss_B(batch).detach() for host in (half, full)]

    assert read == [torch.float32]
    torch.testing.assert_close(*losses, rtol=0.02, atol=0.02)
    assert not torch.equal(*losses)


def test_a_head_in_half_precision_would_be_noticed(make_host: MakeHost, make_records: MakeRecords) -> None:
    """Control: a head that is cast back cannot read what it is given."""
    host = make_host("tiny-bert", model={"dtype": "bfloat16"})
    host.model.get_submodule("base_model.model.classifier.modules_to_save.default").bfloat16()

    with pytest.raises(RuntimeError, match="dtype"):
        host.loss_B(pad(make_records(), pad_id=host.pad_id))


def test_gradient_checkpointing_gives_the_same_gradients(make_host: MakeHost, make_records: MakeRecords) -> None:
    """Memory is traded for time and for nothing else; and it is on."""
    records = make_records()
    gradients = []
    for checkpointing in (False, True):
        host = make_host(model={"gradient_checkpointing": checkpointing})
        host.put(host.take() + 0.1)
        with host.training():
            loss = host.loss_B(pad(records, pad_id=host.pad_id)).sum()
            loss.backward()
        gradients.append([p.grad for p in host.trainable()])
        assert host.model.get_base_model().is_gradient_checkpointing is checkpointing

    for a, b in zip(*gradients, strict=True):
        assert a is not None
        assert a.abs().max() > 0
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("task", ["causal_lm", "classification"])
def test_the_end_token_serves_as_padding_where_there_is_none(
    task: str, make_host: MakeHost, make_records: MakeRecords, tmp_path: Path
) -> None:
    """Records that hold the end token themselves keep their losses: masks go by length, not by token."""
    folder = copy_of("tiny-llama", tmp_path)
    change_json(folder / "tokenizer_config.json", pad_token=...)
    change_json(folder / "config.json", pad_token_id=None)
    host = make_host(model={"source": str(folder), "task": task})
    records = make_records((5, 8))
    for record in records:
        record.input_ids[-1] = host.tokenizer.eos_token_id
        record.labels[-1] = host.tokenizer.eos_token_id
    assert host.pad_id == host.tokenizer.eos_token_id

    together = host.loss_B(pad(records, pad_id=host.pad_id)).detach()

    alone = torch.cat([host.loss_B(pad([r], pad_id=host.pad_id)).detach() for r in records])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)
    assert together.min() > 0


def test_a_tokenizer_without_any_end_is_refused(make_host: MakeHost, tmp_path: Path) -> None:
    """There has to be something to fill a pass with."""
    folder = copy_of("tiny-llama", tmp_path)
    change_json(folder / "tokenizer_config.json", pad_token=..., eos_token=...)

    with pytest.raises(ModelError, match="neither a padding nor an end token"):
        make_host(model={"source": str(folder)})


@pytest.mark.parametrize("task", ["causal_lm", "classification"])
def test_a_base_with_a_weight_missing_is_refused_by_name(task: str, make_host: MakeHost, tmp_path: Path) -> None:
    """transformers would draw it at random, differently at every site, and only warn."""
    folder = copy_of("tiny-llama", tmp_path)
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    with pytest.raises(
        ModelError, match=r"files without model\.layers\.1\.mlp\.up_proj\.weight, expected every weight"
    ):
        make_host(model={"source": str(folder), "task": task})


@pytest.mark.parametrize("damage", ["cut weights", "cut configuration", "odd architecture", "no tokenizer", "wide"])
def test_damaged_files_are_a_model_error(damage: str, make_host: MakeHost, tmp_path: Path) -> None:
    """Whatever transformers raises, the user reads which setting to look at."""
    folder = copy_of("tiny-llama", tmp_path)
    if damage == "cut weights":
        (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:1000])
    elif damage == "cut configuration":
        (folder / "config.json").write_text('{"model_type": "lla')
    elif damage == "odd architecture":
        change_json(folder / "config.json", model_type="no_such_model")
    elif damage == "no tokenizer":
        (folder / "tokenizer.json").unlink()
    else:
        change_json(folder / "config.json", hidden_size=48)

    with pytest.raises(ModelError, match=r"model\.source: found files that transformers cannot load"):
        make_host(model={"source": str(folder)})


def test_code_that_a_folder_brings_along_does_not_run(make_host: MakeHost, tmp_path: Path) -> None:
    """A folder that names its own classes is refused without a question on the terminal."""
    folder = copy_of("tiny-llama", tmp_path)
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    change_json(
        folder / "config.json", model_type="evil",
        auto_map={"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"},
    )  # fmt: skip

    with pytest.raises(ModelError, match=r"model\.source"):
        make_host(model={"source": str(folder)})

    assert not (tmp_path / "ran").exists()
