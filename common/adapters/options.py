"""LoRA's options as PEFT writes them beside an adapter, against those of the plan.

They decide what the same weights do: another `lora_alpha` is another adapter.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from partsong.common.build import to_tree
from partsong.common.plan import Plan

_OFF: tuple[object, ...] = (None, False, 0, "none", [], {})
_USUAL = {
    "peft_type": "LORA",
    "inference_mode": True,
    "init_lora_weights": True,
    "megatron_core": "megatron.core",
    "qalora_group_size": 16,
}
"""What PEFT writes besides the plan's options without a change to what the adapter does."""
_FOR_PEOPLE = {"base_model_name_or_path", "peft_version"}


def odd_option(options: Mapping[str, Any], plan: Plan) -> str | None:
    """Name an option that is not as the plan has it; one that the plan does not name has to be off.

    Args:
        options: what `adapter_config.json` says.
        plan: of the run.
    """
    planned = {name: _sorted(value) for name, value in to_tree(plan.lora).items()}
    found = {name: _sorted(value) for name, value in options.items() if name not in _FOR_PEOPLE}
    for name in sorted(planned.keys() | found.keys()):
        if name in planned:
            right = name in found and found[name] == planned[name]
        else:
            right = found[name] in _OFF or (name in _USUAL and found[name] == _USUAL[name])
        if not right:
            return name
    return None


def _sorted(value: Any) -> Any:
    """PEFT keeps some lists as sets."""
    return sorted(value) if isinstance(value, list) and all(isinstance(item, str) for item in value) else value
