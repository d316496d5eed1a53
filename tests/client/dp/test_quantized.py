"""Per-record gradients over 4-bit and 8-bit bases: exact against one record at a time, or refused by name."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from torch import nn

from partsong.client.dp.clipping import clip_weights
from partsong.client.dp.engine import private_stepper
from partsong.common.errors import Refused

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
BASE = Path(__file__).parents[2] / "fixtures" / "tiny-llama"
NF4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.float32}
INT8 = {"load_in_8bit": True, "llm_int8_threshold": 0.0}


def quantized(**options: Any) -> nn.Module:
    """The tiny pretrained Llama in fewer bits, with non-zero LoRA weights in float32, in train mode."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # bitsandbytes asks torch for names that torch renames
        pytest.importorskip("bitsandbytes")
        base = transformers.AutoModelForCausalLM.from_pretrained(
            BASE, quantization_config=transformers.BitsAndBytesConfig(**options), dtype=torch.float32
        )
        for parameter in base.parameters():
            parameter.requires_grad_(False)
        torch.manual_seed(0)
        model = get_peft_model(base, LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"]))
    for parameter in model.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, std=0.1)
    return model.train()


def kinds(model: nn.Module) -> set[str]:
    return {type(module).__name__ for module in model.modules()}


@pytest.mark.parametrize("engine", ["flat", "books", "hooks"])
@pytest.mark.parametrize(("options", "layer"), [(NF4, "Linear4bit"), (INT8, "Linear8bitLt")], ids=["nf4", "int8"])
def test_gradients_per_record_are_those_of_one_record_at_a_time(
    kit, options: dict[str, Any], layer: str, engine: str
) -> None:
    """Norms and clipped sum to float32 rounding, right-padded records of unequal length."""
    model, batch = quantized(**options), kit.unequal()
    assert layer in kinds(model)
    rows = kit.loop(model, batch)
    clip = float(rows.norm(dim=1).median())
    expected = clip_weights(rows.norm(dim=1), clip_norm=clip, clipping="abadi") @ rows
    optimizer = torch.optim.SGD(kit.trainable(model), lr=0.1)
    settings = kit.settings(clip_norm=clip, engine="hooks" if engine == "hooks" else "flat")
    stepper = private_stepper(model, optimizer, settings, buffer_limit_bytes=0 if engine == "books" else 1 << 30)

    stepper.accumulate(kit.losses(model, batch))

    assert (stepper._optimizer.sum_P - expected).norm() < 1e-5 * expected.norm()
    assert expected.norm() > 0.1 * clip
    assert (rows.sum(0) - expected).norm() > 0.1 * expected.norm()


@pytest.mark.parametrize("engine", ["flat", "hooks"])
def test_outlier_columns_of_a_real_eight_bit_base_are_refused(kit, engine: str) -> None:
    """LLM.int8's default threshold looks for them over all records of a pass."""
    model = quantized(load_in_8bit=True)

    with pytest.raises(Refused, match="rule int8_outliers: "):
        private_stepper(model, torch.optim.SGD(kit.trainable(model), lr=0.1), kit.settings(engine=engine))

    assert not any(hasattr(p, "grad_sample") for p in model.parameters())
