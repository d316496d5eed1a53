"""What a run publishes is what PEFT, vLLM and converters take."""

import json
from pathlib import Path

import pytest
import torch
from peft import PeftConfig, PeftModel
from safetensors import safe_open
from transformers import AutoModelForCausalLM

from partsong.simulations.commands.export import export_adapter, export_merged

BASE = Path(__file__).parents[2] / "fixtures" / "tiny-llama"
VLLM_RANKS = {1, 8, 16, 32, 64, 128, 256, 320, 512}
"""Values that vLLM's --max-lora-rank takes (vllm/config/lora.py); an adapter's rank is at most the one chosen."""


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    """An exported adapter."""
    return export_adapter(finished, tmp_path / "adapter")


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_peft_loads_the_directory_and_its_answers_are_those_of_the_merged_model(
    folder: Path, finished: Path, tmp_path: Path
) -> None:
    """Two ways to the same logits; the base alone gives others, so the adapter does something."""
    tokens = torch.arange(5, 17)[None]
    base = AutoModelForCausalLM.from_pretrained(BASE).eval()
    merged = AutoModelForCausalLM.from_pretrained(export_merged(finished, tmp_path / "merged")).eval()
    with torch.no_grad():
        plain = base(tokens).logits
        adapted = PeftModel.from_pretrained(base, folder).eval()(tokens).logits
        whole = merged(tokens).logits

    assert torch.allclose(adapted, whole, atol=1e-4)
    assert not torch.allclose(adapted, plain, atol=1e-3)


def test_vllm_finds_plain_lora(folder: Path) -> None:
    """What its loader demands: LoRA without DoRA, bias or saved modules; A and B of linear layers by PEFT's names."""
    config = json.loads((folder / "adapter_config.json").read_text())
    with safe_open(folder / "adapter_model.safetensors", "pt") as tensors:
        shapes = {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118

    assert config["peft_type"] == "LORA"
    assert (config["bias"], config["use_dora"], config["modules_to_save"]) == ("none", False, None)
    assert config["r"] <= max(VLLM_RANKS)
    assert all(name.startswith("base_model.model.") for name in shapes)
    assert {name.rsplit(".", 2)[-2] for name in shapes} == {"lora_A", "lora_B"}
    for name, shape in shapes.items():
        assert shape[0 if "lora_A" in name else 1] == config["r"]


def test_the_directory_names_no_path_of_this_machine(folder: Path, finished: Path) -> None:
    """Neither where the base lay nor where the run was made."""
    texts = {file.name: file.read_bytes() for file in folder.iterdir()}

    told = [name for name, text in texts.items() if str(BASE).encode() in text or str(finished.parent).encode() in text]

    assert told == []
    assert PeftConfig.from_pretrained(folder).base_model_name_or_path
    assert {name.rsplit(".", 1)[-1] for name in texts} == {"json", "md", "safetensors"}
