"""What cannot be done safely, refused by name.

Covers: models, losses and choices under which clipping one record's gradient would not bound that record's
    influence, or the recorded event would not be what happened.
Does not cover: a loss vector that is one-dimensional but whose entries mix records; see the leave-one-out tests
    for how to find that out about a loss of one's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import MappingProxyType

import torch
from torch import nn

from partsong.common.errors import Refused

_ONE_EACH = "release what the record changes through the accountant, or do without it"

UNSAFE = MappingProxyType(
    {
        "adaptive": (
            "adaptive_clipping",
            "Opacus' adaptive clipping takes a batch-mean loss and adds noise scaled by the private batch size",
            "use clipping=abadi or autos",
        ),
        "ghost": (
            "ghost_clipping",
            "norm and gradient are rounded apart, so what is clipped is not what is released",
            "use engine=flat",
        ),
        "gdp": (
            "gdp_accountant",
            "the Gaussian-DP approximation is no bound and under-reports epsilon by up to 42 %",
            "use the pld accountant",
        ),
        "shuffling": (
            "shuffled_batches",
            "shuffling costs two to five times the epsilon that Poisson accounting would print",
            "use PoissonSampler",
        ),
        "packing": (
            "packed_records",
            "one sequence would hold several records, and clipping bounds sequences",
            "set data.packing=false",
        ),
        "prototype_head": ("private_model_state", "a head computed from records carries them unclipped", _ONE_EACH),
        "collected_labels": ("private_preprocessing", "a label list from records shows rare labels", _ONE_EACH),
        "local_factor": ("private_model_state", "a private factor couples records in the forward pass", _ONE_EACH),
        "private_basis": ("private_preprocessing", "a basis fitted to records carries them unclipped", _ONE_EACH),
    }
)
"""Choice -> (rule, reason, remedy). Names of other tools stand here so that asking for them is answered."""


def refuse_choice(*choices: str) -> None:
    """Refuse what is known to be unsafe.

    Raises:
        Refused: by the rule of the first choice that stands in `UNSAFE`; nothing was started.
    """
    for choice in choices:
        if choice in UNSAFE:
            rule, reason, remedy = UNSAFE[choice]
            raise Refused(rule, reason=reason, remedy=remedy)


def require_clippable(model: nn.Module) -> None:
    """Refuse a model in which records mix, or parts that escape per-record gradients.

    Raises:
        Refused: `nothing_to_train`, `not_in_train_mode`, `adapter_dtype`, `dora`, `embedding_lora`,
            `batch_statistics`, `int8_outliers`; the model was not touched.
    """
    trainable = [p for p in model.parameters() if p.requires_grad]
    if not trainable:
        raise Refused("nothing_to_train", reason="no parameter is trainable", remedy="attach an adapter first")
    require_train_mode(model)
    if any(p.dtype != torch.float32 for p in trainable):
        raise Refused(
            "adapter_dtype",
            reason="noise and clipping in fewer bits than float32 are neither Gaussian nor bounds",
            remedy="keep adapters in float32 (PEFT's autocast_adapter_dtype=True)",
        )
    for module in model.modules():
        _require_clippable_module(module)


def require_train_mode(model: nn.Module) -> None:
    """Refuse a model in evaluation mode.

    Raises:
        Refused: `not_in_train_mode`; nothing was added.
    """
    if not model.training:
        raise Refused(
            "not_in_train_mode", reason="gradients are recorded in train mode only", remedy="call model.train()"
        )


def _require_clippable_module(module: nn.Module) -> None:
    if len(getattr(module, "lora_magnitude_vector", ())) > 0:
        raise Refused(
            "dora", reason="DoRA's weight norm is not a linear layer of one record", remedy="set use_dora=false"
        )
    if len(getattr(module, "lora_embedding_A", ())) > 0:
        raise Refused(
            "embedding_lora",
            reason="its parameters are no layers, so their gradient per record is not seen",
            remedy="leave embeddings out of target_modules",
        )
    if isinstance(module, nn.modules.batchnorm._BatchNorm):  # noqa: SLF001 - the common base has no public name
        raise Refused(
            "batch_statistics", reason="batch normalisation mixes records", remedy="use layer or group normalisation"
        )
    threshold = getattr(getattr(module, "state", None), "threshold", 0.0)
    if type(module).__name__ == "Linear8bitLt" and threshold:
        raise Refused(
            "int8_outliers",
            reason="LLM.int8 picks outlier columns over all records of a batch",
            remedy="set llm_int8_threshold=0.0, or use 4 bits",
        )


def require_reentrant_checkpointing(model: nn.Module) -> None:
    """Refuse non-reentrant gradient checkpointing under Opacus hooks: forward hooks would fire twice.

    Raises:
        Refused: `checkpointing_under_hooks`; the model was not touched.
    """
    for keywords in _checkpointing(model):
        if not keywords.get("use_reentrant", False):
            raise Refused(
                "checkpointing_under_hooks",
                reason="Opacus hooks lose per-record gradients when the forward pass is repeated without re-entry",
                remedy="use engine=flat, or gradient_checkpointing_kwargs={'use_reentrant': True}",
            )


def _checkpointing(model: nn.Module) -> Iterator[dict[str, object]]:
    for module in model.modules():
        if getattr(module, "gradient_checkpointing", False):
            yield getattr(getattr(module, "_gradient_checkpointing_func", None), "keywords", {})


def require_loss_per_record(loss_B: torch.Tensor) -> None:
    """Refuse a loss that is not one number per record.

    Raises:
        Refused: `batch_coupled_loss`; nothing was added.
    """
    if loss_B.dim() != 1:
        raise _coupled(f"a loss of {loss_B.dim()} dimensions")
    if not loss_B.requires_grad:
        raise Refused(
            "loss_without_graph", reason="no trainable parameter influenced the loss", remedy="check the adapter"
        )


def require_rows(found: int, *, expected: int) -> None:
    """Refuse gradients whose first axis is not the records of the loss.

    Raises:
        Refused: `batch_coupled_loss`; nothing was added.
    """
    if found != expected:
        raise _coupled(f"{expected} losses for {found} rows of a layer's input")


def _coupled(found: str) -> Refused:
    return Refused(
        "batch_coupled_loss",
        reason=f"{found}: with Hugging Face's mean over the batch, each record's gradient depends on the others, "
        "and clipping bounds nothing",
        remedy="compute logits and one mean per record, and pass the vector",
    )


def require_full_precision() -> None:
    """Refuse matrix products in fewer bits than float32 where a bound depends on two of them agreeing.

    Raises:
        Refused: `reduced_precision`; nothing was added.
    """
    try:
        full = torch.get_float32_matmul_precision() == "highest"
    except RuntimeError:  # torch's newer switch was turned, and it does not answer through the older one
        full = False
    if not full:
        raise Refused(
            "reduced_precision",
            reason="torch may round float32 products to fewer bits, so norms and clipped sums would not agree",
            remedy="torch.set_float32_matmul_precision('highest'), or a larger buffer_limit_bytes",
        )


def require_same_parameters(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Refuse an optimizer that would step other tensors than those that are trained.

    Raises:
        Refused: `optimizer_parameters`; nothing was attached.
    """
    stepped = [id(p) for group in optimizer.param_groups for p in group["params"]]
    trained = [id(p) for p in model.parameters() if p.requires_grad]
    if sorted(stepped) != sorted(trained):
        raise Refused(
            "optimizer_parameters",
            reason=f"the optimizer holds {len(stepped)} tensors, the model trains {len(trained)}, not the same ones",
            remedy="move the model, attach the adapter, then make the optimizer of its trainable parameters",
        )
