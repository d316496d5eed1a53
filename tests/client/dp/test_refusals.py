"""Everything that cannot be done safely is refused at the door where it would come in, by name and with the reason."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from partsong.client.data.encode import encode
from partsong.client.data.table import table_from_rows
from partsong.client.dp.accountant import make_accountant
from partsong.client.dp.engine import private_stepper
from partsong.client.dp.guards import refuse_choice
from partsong.client.model.lora import lora_options
from partsong.common.config import AdapterConfig, DataConfig
from partsong.common.errors import Refused


def attach(kit: Any, model: nn.Module) -> Any:
    return private_stepper(model, torch.optim.SGD(kit.trainable(model), lr=0.1), kit.settings())


def adapter(**peft: Any) -> Callable[[Any], object]:
    """An adapter as it is configured for a private run."""
    return lambda _kit: lora_options(AdapterConfig(peft=peft), task="causal_lm", num_layers=2, private=True)


def packing(_kit: Any) -> object:
    table = table_from_rows([{"text": "a"}], DataConfig(), "memory")
    return encode(table, None, DataConfig(packing=True), task="causal_lm")


def hugging_face_loss(kit: Any) -> object:
    model, batch = kit.tiny(), kit.unequal()
    stepper = attach(kit, model)
    return stepper.accumulate(model(input_ids=batch.tokens, attention_mask=batch.mask, labels=batch.labels).loss)


def outlier_columns(kit: Any) -> object:
    """See test_quantized for the real layer, where bitsandbytes is installed."""
    model = kit.tiny()
    model.extra = type("Linear8bitLt", (nn.Module,), {})()
    model.extra.state = SimpleNamespace(threshold=6.0)
    return attach(kit, model)


REFUSALS: dict[str, tuple[Callable[[Any], object], str, str]] = {
    "DoRA, configured": (adapter(use_dora=True), "dora_under_dp", "shared by all records"),
    "DoRA, attached": (lambda kit: attach(kit, kit.tiny(peft={"use_dora": True})), "dora", "weight norm"),
    "LoRA on embeddings": (
        lambda kit: attach(kit, kit.tiny(peft={"target_modules": ["embed_tokens"]}, tie_word_embeddings=False)),
        "embedding_lora",
        "gradient per record is not seen",
    ),
    "packing": (packing, "packing", "share a gradient"),
    "a loss over the batch": (hugging_face_loss, "batch_coupled_loss", "depends on the others"),
    "outlier columns of eight bits": (outlier_columns, "int8_outliers", "over all records"),
    "adapters in bfloat16": (lambda kit: attach(kit, kit.tiny().bfloat16()), "adapter_dtype", "fewer bits"),
    "shuffling": (lambda _: refuse_choice("shuffling"), "shuffled_batches", "two to five times the epsilon"),
    "adaptive clipping": (lambda kit: kit.settings(clipping="adaptive"), "adaptive_clipping", "batch-mean loss"),
    "ghost clipping": (lambda kit: kit.settings(engine="ghost"), "ghost_clipping", "not what is released"),
    "the gdp accountant": (lambda _: make_accountant("gdp"), "gdp_accountant", "no bound"),
    "a head of prototypes": (lambda _: refuse_choice("prototype_head"), "private_model_state", "unclipped"),
    "a private local factor": (lambda _: refuse_choice("local_factor"), "private_model_state", "couples records"),
    "labels collected from records": (
        lambda _: refuse_choice("collected_labels"),
        "private_preprocessing",
        "shows rare labels",
    ),
    "a start from a decomposition of records": (
        adapter(init_lora_weights="eva"),
        "private_preprocessing",
        "carries them unclipped",
    ),
}


@pytest.mark.parametrize("what", REFUSALS)
def test_what_is_not_safe_is_refused_by_name_and_with_the_reason(kit, what: str) -> None:
    """The rule, words of the reason, and something to do instead."""
    door, rule, words = REFUSALS[what]

    with pytest.raises(Refused) as caught:
        door(kit)

    assert caught.value.rule == rule
    assert words in caught.value.reason
    assert caught.value.remedy


def test_the_same_doors_let_safe_choices_through(kit) -> None:
    """The control: neither door refuses everything."""
    attach(kit, kit.tiny()).close()
    adapter(use_rslora=True)(kit)
    make_accountant("pld")
    kit.settings(clipping="autos", engine="hooks", noise="discrete", unit="patient")
