"""What PEFT itself writes into `adapter_config.json`. The one file at the coordinator that imports PEFT, and torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import peft


def peft_options(lora: Mapping[str, Any], *, base_name: str) -> dict[str, Any]:
    """Spell out all of PEFT's options, as JSON holds them.

    Args:
        lora: keyword arguments of `peft.LoraConfig`, as a plan has them.
        base_name: of the base model, for people.
    """
    options = {**lora, "base_model_name_or_path": base_name, "inference_mode": True}
    return _plain(peft.LoraConfig(**options).to_dict())


def _plain(options: dict[str, Any]) -> dict[str, Any]:
    """PEFT's own values hold sets and enums; JSON does not."""
    plain: dict[str, Any] = json.loads(
        json.dumps(options, default=lambda v: sorted(v) if isinstance(v, set) else getattr(v, "value", str(v)))
    )
    return plain
