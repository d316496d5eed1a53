"""LoRA on a base model: where it goes, how it starts, and which of its tensors are trained.

Shape letters: r rank, I input width.
"""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Mapping
from typing import Any, Literal, cast

import numpy as np
import peft
import torch
from numpy.typing import NDArray
from torch import nn

from partsong.client.dp.guards import refuse_choice
from partsong.client.model.compound import replace_b
from partsong.client.model.start import PublicStart, base_weight
from partsong.common.adapters.adapter import AdapterLayout, TensorSpec
from partsong.common.adapters.methods import METHODS
from partsong.common.config import AdapterConfig
from partsong.common.errors import ModelError, Refused

Task = Literal["causal_lm", "classification"]

_RESERVED = {"r", "lora_alpha", "target_modules", "task_type", "layers_to_transform", "base_model_name_or_path"}
_REFUSED = {
    "init_lora_weights": "the start comes from the public seed, adapter.a_init; other starts change the base weights",
    "use_dora": "DoRA's magnitude is neither averaged nor drawn from the public seed; use_rslora is",
    "bias": "base weights stay as they are",
    "lora_dropout": "what a record contributes does not depend on chance",
    "layer_replication": "the base model stays as it is",
    "trainable_token_indices": "base weights stay as they are",
}
"""Options of PEFT that break a promise of this package, with the promise."""
_STARTS_FROM_DATA = ("eva", "corda", "lora_ga")
"""PEFT's ways to start from a decomposition of what the model makes of records."""
_FIX_RANK = {"use_rslora", "rank_pattern", "alpha_pattern"}
"""Options of PEFT by which scale and rank are no longer alpha / r and r."""
_OFF = (None, False, 0, "none")
"""Values by which such an option is off."""


def lora_options(config: AdapterConfig, *, task: Task, num_layers: int, private: bool) -> dict[str, Any]:
    """Spell out the keyword arguments of `peft.LoraConfig`.

    Args:
        config: the adapter as configured.
        task: decides PEFT's task type, and with it whether a classification head is part of the adapter.
        num_layers: of the base model, to resolve `last_layers`.
        private: whether differential privacy is on.
    Raises:
        ModelError: more last layers than there are, an option given twice, or one that breaks a promise.
        Refused: an option whose per-record gradients cannot be bounded.
    """
    if twice := sorted(set(config.peft) & _RESERVED):
        raise ModelError(f"adapter.peft.{twice[0]}", found="an option with its own key", expected=f"adapter.{twice[0]}")
    if private and config.peft.get("use_dora"):
        raise Refused(
            "dora_under_dp",
            reason="DoRA's magnitude is shared by all records of a pass, so none can be clipped alone",
            remedy="use plain LoRA or rsLoRA under differential privacy",
        )
    if config.a_init == "private_gradient" or (
        private and str(config.peft.get("init_lora_weights", "")).lower() in _STARTS_FROM_DATA
    ):
        refuse_choice("private_basis")
    _refuse_options(config.peft, task=task)
    if config.refresh > 1 and config.peft.keys() & _FIX_RANK:
        raise ModelError(
            "adapter.refresh",
            found=f"{config.refresh} with options that set rank or scale by themselves",
            expected="plain LoRA: one rank and alpha / r",
            remedy=f"leave out {', '.join(sorted(_FIX_RANK))}",
        )
    options: dict[str, Any] = {
        # PEFT divides alpha by the rank: with the rank of all stretches together, each keeps its scale.
        "r": config.r * config.refresh,
        "lora_alpha": config.lora_alpha * config.refresh,
        "target_modules": sorted(config.target_modules),
        "task_type": {"causal_lm": "CAUSAL_LM", "classification": "SEQ_CLS"}[task],
        **config.peft,
    }
    if config.last_layers is not None:
        if config.last_layers > num_layers:
            raise ModelError("adapter.last_layers", found=str(config.last_layers), expected=f"at most {num_layers}")
        options["layers_to_transform"] = list(range(num_layers - config.last_layers, num_layers))
    return options


def attach(base: nn.Module, options: Mapping[str, Any], *, config: AdapterConfig) -> nn.Module:
    """Put LoRA on the base model and draw its start from public information.

    Guarantees:
        - B is zero, so the adapted model begins as the base model;
        - A (and a classification head) depend on the seed and the tensor's name only, or on the base model's weights;
        - every LoRA tensor and a classification head are float32 whatever the base model is, and a head reads float32:
          clipping and noise need it; exactly those that the method trains require gradients.
    Raises:
        ModelError: a target module that matches no layer (of those asked for), named with the closest name that
            would; or a tensor that the method cannot average.
    """
    _check_targets(base, config, options)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # PEFT asks transformers for a name that it renamed
            model = cast(nn.Module, peft.get_peft_model(cast(Any, base), peft.LoraConfig(**options)))
    except (TypeError, ValueError) as err:
        raise ModelError(
            "adapter", found=f"options that PEFT refuses ({err})", expected="options of LoraConfig"
        ) from err
    keep_head_in_float32(model)
    replace_b(model, core="core" in METHODS[config.method].trains, blocks=config.refresh)
    start = PublicStart(config, lambda layer: base_weight(model, layer))
    for name, parameter in public_parameters(model).items():
        parameter.requires_grad_(_is_trained(name, config))
        with torch.no_grad():
            parameter.copy_(torch.from_numpy(start.tensor(name, tuple(parameter.shape))))
    _check_attached(model, options)
    return model


def keep_head_in_float32(model: nn.Module) -> None:
    """Give a classification head float32 parameters and inputs, whatever the base model is in."""
    for module in model.modules():
        if isinstance(module, peft.utils.ModulesToSaveWrapper):
            module.float()
            module.register_forward_pre_hook(_in_float32)


def _in_float32(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(value.float() if isinstance(value, torch.Tensor) else value for value in inputs)


def public_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Every parameter of the adapter by the name it has in `adapter_model.safetensors`, in model order."""
    names: dict[str, nn.Parameter] = {}
    for name, parameter in model.named_parameters():
        if ".lora_" in name or ".modules_to_save." in name:
            names[name.replace(".modules_to_save.default", "").replace(".default", "")] = parameter
    return names


def layout_of(model: nn.Module) -> AdapterLayout:
    """Describe the adapter that sits on `model`."""
    return AdapterLayout(
        tensors=tuple(
            TensorSpec(name=name, shape=tuple(p.shape), trained=p.requires_grad)
            for name, p in public_parameters(model).items()
        )
    )


def public_start(model: nn.Module, layout: AdapterLayout, config: AdapterConfig) -> dict[str, NDArray[np.float32]]:
    """Draw the adapter's start, tensor by tensor: the same for all who know layout, public seed and base model."""
    return PublicStart(config, lambda layer: base_weight(model, layer)).all(layout)


def _check_targets(base: nn.Module, config: AdapterConfig, options: Mapping[str, Any]) -> None:
    """Every target has to name at least one linear layer: a typing error must not train less than was asked for."""
    linear = {name.rpartition(".")[2] for name, m in base.named_modules() if isinstance(m, nn.Linear)}
    full = [name for name, m in base.named_modules() if isinstance(m, nn.Linear)]
    if options["target_modules"] == ["all-linear"]:
        options["target_modules"] = "all-linear"  # type: ignore[index]  # PEFT wants the bare word, not a list
        return
    for target in config.target_modules:
        if not any(name == target or name.endswith(f".{target}") for name in full):
            close = difflib.get_close_matches(target, linear, n=1)
            known = ", ".join(sorted(linear))
            raise ModelError(
                "adapter.target_modules",
                found=f"{target!r}, which matches no linear layer of the base model",
                expected=f"some of {known}",
                remedy=f"did you mean {close[0]!r}?" if close else None,
            )


def _check_attached(model: nn.Module, options: Mapping[str, Any]) -> None:
    """What sits on the model now is what was asked for, everywhere it was asked for, and nothing else."""
    public = public_parameters(model)
    known = {id(p) for p in public.values()}
    strange = [n for n in public if not (_is_lora_a(n) or _is_lora_b(n) or ".lora_" not in n)]
    strange += [n for n, p in model.named_parameters() if p.requires_grad and id(p) not in known]
    if strange:
        raise ModelError("adapter.peft", found=f"options that add {strange[0]}", expected="A and B matrices only")
    adapted = [name.partition(".lora_")[0] for name in public if _is_lora_a(name)]
    targets = options["target_modules"]
    for target in () if isinstance(targets, str) else targets:
        if not any(name.endswith(f".{target}") for name in adapted):
            raise ModelError(
                "adapter.target_modules",
                found=f"{target!r}, which names no layer among those to be adapted",
                expected="a layer that adapter.last_layers and adapter.peft leave in",
            )


def _refuse_options(peft_options: Mapping[str, Any], *, task: Task) -> None:
    for name, promise in _REFUSED.items():
        value = peft_options.get(name)
        if value not in _OFF and not (name == "init_lora_weights" and value is True):
            raise ModelError(f"adapter.peft.{name}", found=repr(value), expected="it left out", remedy=promise)
    if task == "causal_lm" and peft_options.get("modules_to_save"):
        raise ModelError(
            "adapter.peft.modules_to_save",
            found="pretrained layers",
            expected="it left out",
            remedy="a saved module starts from the public seed, which is for classification heads",
        )


def _is_trained(name: str, config: AdapterConfig) -> bool:
    trains: tuple[str, ...] = METHODS[config.method].trains
    if "product" in trains:
        trains = ("A", "B")
    if _is_lora_a(name):
        return "A" in trains
    if _is_lora_b(name):
        return "B" in trains or ("core" in trains and ".lora_B.core." in name)
    return config.train_head


def _is_lora_a(name: str) -> bool:
    return ".lora_A." in name


def _is_lora_b(name: str) -> bool:
    return ".lora_B." in name
