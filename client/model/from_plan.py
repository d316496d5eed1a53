"""From a plan back to the configuration of its adapter, so that a site builds what the coordinator has laid out.

What cannot be told from a plan is not needed: how A is drawn, because the frozen part and the start travel.
"""

from __future__ import annotations

from typing import Any

from partsong.common.build import build
from partsong.common.config import AdapterConfig
from partsong.common.errors import ConfigError, ModelError
from partsong.common.plan import Plan

_OWN = ("r", "lora_alpha", "target_modules", "task_type", "layers_to_transform")
"""Options of LoRA that have a key of their own, or follow from the task."""


def adapter_of(plan: Plan) -> AdapterConfig:
    """Say how the plan's adapter is configured.

    Guarantees: where the result leads to the plan's LoRA options and layout on a base model, the plan is for that
        model; that comparison is the caller's.
    Raises:
        ModelError: options of a type that no adapter has.
    """
    lora, blocks = plan.lora, _blocks(plan)
    tree: dict[str, Any] = {
        "method": plan.method,
        "refresh": blocks,
        "r": _share(lora.get("r"), blocks),
        "lora_alpha": _share(lora.get("lora_alpha"), blocks),
        "target_modules": _targets(lora.get("target_modules")),
        "train_head": any(t.trained and ".lora_" not in t.name for t in plan.layout.tensors),
        "peft": {name: value for name, value in lora.items() if name not in _OWN},
    }
    if isinstance(layers := lora.get("layers_to_transform"), (list, tuple)):
        tree["last_layers"] = len(layers)
    try:
        return build(AdapterConfig, tree, where="plan.lora")
    except ConfigError as err:
        raise ModelError(err.place, found=err.found, expected=err.expected) from err


def _blocks(plan: Plan) -> int:
    """Count the blocks of columns that a layer's B is made of."""
    numbers = {t.name.partition(".lora_B.blocks.")[2] for t in plan.layout.tensors}
    return max(1, len(numbers - {""}))


def _share(total: object, blocks: int) -> object:
    """One block's part of what LoRA's options say of all together; anything but a multiple is refused as it is."""
    if blocks == 1 or not isinstance(total, (int, float)):
        return total
    return total // blocks if isinstance(total, int) else total / blocks


def _targets(value: object) -> object:
    """PEFT takes one bare word for every linear layer; a configuration has a list."""
    return [value] if isinstance(value, str) else value
