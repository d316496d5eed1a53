"""From a model's configuration to a host that trains: files, device, number format, quantisation, adapter."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
import transformers
from safetensors import SafetensorError
from torch import nn

from partsong.client.model.any_rank import AnyRankHost
from partsong.client.model.host import ModelHost
from partsong.client.model.lora import attach, lora_options, public_parameters
from partsong.client.model.source import BaseFiles, locate
from partsong.common.config import AdapterConfig, ModelConfig
from partsong.common.errors import ModelError
from partsong.common.simulated import ANY_RANK

T = TypeVar("T")

_LOCAL: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
"""Nothing is downloaded, and code that a folder brings along is neither run nor asked about."""


def load(
    model: ModelConfig,
    adapter: AdapterConfig,
    *,
    labels: tuple[str, ...] = (),
    private: bool = True,
    say: Callable[[str], None] = lambda _: None,
) -> ModelHost:
    """Load the base model and put the adapter on it.

    Guarantees:
        - nothing is downloaded and no code from the model folder runs;
        - base weights are frozen; adapter tensors, a head's among them, are float32 on every device.
    Args:
        model: which base, where, in which number format.
        adapter: LoRA's options.
        labels: the closed list of classes; needed by, and only by, classification.
        private: whether training will be under differential privacy.
        say: told about steps that take longer than a moment.
    Raises:
        ModelError: files, device, quantisation, targets or labels do not fit; nothing is kept in memory.
    """
    if (model.task == "classification") != bool(labels):
        raise ModelError(
            "data.labels",
            found=f"{len(labels)} labels",
            expected=f"what task {model.task} needs",
            remedy="list the classes for classification, none for causal_lm",
        )
    if model.threads is not None:
        torch.set_num_threads(model.threads)
    device = pick_device(model.device)
    files = locate(model.source, expected_sha256=model.sha256, say=say)
    base, missing = _load_base(model, files, device, labels)
    options = lora_options(adapter, task=model.task, num_layers=base.config.num_hidden_layers, private=private)
    dressed = attach(base, options, config=adapter).to(device)
    _check_whole(missing, public_parameters(dressed))
    if model.gradient_checkpointing:
        _checkpoint_gradients(base)
    dressed.eval()
    tokenizer = _load_tokenizer(files)
    # Decoders that classify find a record's last token by the padding that they are told of here.
    base.config.pad_token_id = tokenizer.pad_token_id
    given = {"model": dressed, "tokenizer": tokenizer, "files": files, "device": device, "options": options}
    return AnyRankHost(adapter, **given) if adapter.method in ANY_RANK else ModelHost(**given)


def pick_device(wish: str) -> torch.device:
    """Choose a device: `auto` takes CUDA, then MPS, then the CPU.

    Raises:
        ModelError: the device that was asked for is not there.
    """
    if wish == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(wish)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as err:
        there = [
            "cpu",
            *(["cuda"] if torch.cuda.is_available() else []),
            *(["mps"] if torch.backends.mps.is_available() else []),
        ]
        raise ModelError("model.device", found=repr(wish), expected=f"auto or one of {', '.join(there)}") from err
    return device


def _load_base(
    model: ModelConfig, files: BaseFiles, device: torch.device, labels: tuple[str, ...]
) -> tuple[Any, list[str]]:
    """Load the frozen base; also give the names of weights that its files do not hold."""
    kind = {
        "causal_lm": transformers.AutoModelForCausalLM,
        "classification": transformers.AutoModelForSequenceClassification,
    }
    config = _load(lambda: transformers.AutoConfig.from_pretrained(files.folder, **_LOCAL), "a configuration")
    for name, value in vars(config).items():
        if "drop" in name and isinstance(value, float):
            setattr(config, name, 0.0)
    if labels:
        config.num_labels = len(labels)
        config.id2label, config.label2id = dict(enumerate(labels)), {label: i for i, label in enumerate(labels)}
    dtype = _dtype(model, device)
    options = {"config": config, "dtype": dtype, "use_safetensors": True, **_LOCAL, **_quantization(model, dtype)}
    if _is_short_bfloat16(model, device, dtype):
        options["attn_implementation"] = "eager"
    quiet = transformers.utils.logging.get_verbosity()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    try:
        base, report = _load(
            lambda: kind[model.task].from_pretrained(files.folder, output_loading_info=True, **options),
            f"a {model.task} model",
        )
    finally:
        transformers.utils.logging.set_verbosity(quiet)
    for parameter in base.parameters():
        parameter.requires_grad_(False)
    return base if model.quantization == "nf4" else base.to(device), sorted(report["missing_keys"])


def _load_tokenizer(files: BaseFiles) -> Any:
    tokenizer = _load(lambda: transformers.AutoTokenizer.from_pretrained(files.folder, **_LOCAL), "a tokenizer")
    if tokenizer.pad_token_id is None:
        # Any token will do: passes are masked by the lengths of their records, not by the token that fills them.
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.pad_token_id is None:
        raise ModelError(
            "model.source",
            found="a tokenizer with neither a padding nor an end token",
            expected="one of them",
            remedy="set pad_token in its tokenizer_config.json",
        )
    return tokenizer


def _load(read: Callable[[], T], what: str) -> T:
    try:
        return read()
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as err:
        found = f"files that transformers cannot load ({type(err).__name__})"
        raise ModelError("model.source", found=found, expected=what) from err


def _check_whole(missing: list[str], public: Mapping[str, nn.Parameter]) -> None:
    """A weight that is in no file was drawn at random in this process: no other site would have the same base model.

    A classification head is drawn from the public seed instead.
    """
    drawn_publicly = {name.removeprefix("base_model.model.") for name in public}
    if lost := [name for name in missing if name not in drawn_publicly]:
        raise ModelError(
            "model.source",
            found=f"files without {lost[0]}" + (f" and {len(lost) - 1} more weights" if lost[1:] else ""),
            expected="every weight of the base model",
            remedy="save the model again with save_pretrained, or choose the task that it was made for",
        )


def _dtype(model: ModelConfig, device: torch.device) -> torch.dtype:
    if model.dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" and model.task == "causal_lm" else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[model.dtype]


def _is_short_bfloat16(model: ModelConfig, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether torch's fused attention is the slower one: on CPUs, half precision, its backward pass costs twice a whole
    pass of an encoder (MiniLM, 64 tokens). Texts to classify are short enough for attention weights to be written out.
    """
    return model.task == "classification" and device.type == "cpu" and dtype == torch.bfloat16


def _quantization(model: ModelConfig, dtype: torch.dtype) -> dict[str, Any]:
    if model.quantization == "none":
        return {}
    try:
        import bitsandbytes  # noqa: F401  # transformers only says so much later
    except ImportError as err:
        raise ModelError(
            "model.quantization", found="nf4", expected="bitsandbytes", remedy="pip install 'partsong[gpu]'"
        ) from err
    config = transformers.BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )
    return {"quantization_config": config}


def _checkpoint_gradients(base: Any) -> None:
    """Reentrant checkpointing: the other kind runs forward hooks twice, which loses Opacus' per-record gradients."""
    base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})
    base.enable_input_require_grads()
