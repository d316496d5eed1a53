"""Whether an adapter that is saved here is the same adapter after PEFT has loaded it."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import transformers
from peft import PeftModel

from partsong.client.data.batch import Batch, pad
from partsong.client.doctor.gradients import made_up_records
from partsong.client.model.host import ModelHost
from partsong.common.doctor.finding import Seen, fail, ok, skipped

_TOLERANCE = 1e-5
"""Largest difference of a logit / largest logit; the same weights give the same numbers, or nearly on a GPU."""


def check_reload(host: ModelHost, *, classes: int) -> Seen:
    """Save the adapter as a PEFT directory, load it onto a fresh base, and compare what both compute."""
    if getattr(host.model.config, "quantization_config", None) is not None:
        return skipped("a 4-bit base is not loaded twice; reload the finished adapter before using it")
    batch = pad(made_up_records(host, classes=classes), pad_id=host.pad_id)
    host.model.eval()
    model: Any = host.model
    ours = _logits(model, batch, host)
    with model.disable_adapter():
        bare = _logits(model, batch, host)
    with tempfile.TemporaryDirectory() as folder, _quiet():
        model.save_pretrained(folder)
        theirs = _logits(PeftModel.from_pretrained(_fresh(host, classes), folder).eval(), batch, host)
    scale = float(ours.abs().max())
    difference = float((ours - theirs).abs().max()) / scale
    found = f"logits differ by {difference:.1e} of their size after reloading"
    if not difference <= _TOLERANCE:
        return fail(
            found,
            cause="PEFT loads another adapter than the one that was trained: what arrives at users would be useless",
            remedy="reinstall the versions of peft and transformers that this package asks for",
        )
    if bool(torch.equal(ours, bare)):
        return fail(
            "the adapter changes nothing",
            cause="its layers do not take part in the forward pass",
            remedy="reinstall the versions of peft and transformers that this package asks for",
        )
    return ok(found)


@torch.no_grad()
def _logits(model: Any, batch: Batch, host: ModelHost) -> torch.Tensor:
    ids, mask = torch.from_numpy(batch.input_ids), torch.from_numpy(batch.attention_mask)
    logits = model(input_ids=ids.to(host.device), attention_mask=mask.to(host.device)).logits.float()
    is_token = mask.bool().to(logits.device)
    return logits[is_token] if logits.dim() == 3 else logits  # type: ignore[no-any-return]  # transformers is untyped


def _fresh(host: ModelHost, classes: int) -> Any:
    kind: Any = transformers.AutoModelForSequenceClassification if classes else transformers.AutoModelForCausalLM
    more = {"num_labels": classes, "ignore_mismatched_sizes": True} if classes else {}
    base = kind.from_pretrained(
        host.files.folder,
        dtype=next(host.model.parameters()).dtype,
        local_files_only=True,
        use_safetensors=True,
        trust_remote_code=False,
        **more,
    )
    base.config.pad_token_id = host.pad_id
    return base.to(host.device)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers from reporting the fresh head and PEFT from using an old name of transformers."""
    talk = transformers.utils.logging
    before = talk.get_verbosity()
    talk.set_verbosity_error()
    talk.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        talk.set_verbosity(before)
