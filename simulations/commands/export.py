"""A run's adapter for other programs: as it is, or merged into its base model."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import PeftModel
from safetensors import SafetensorError

from partsong.client.model.source import locate
from partsong.common.errors import DataError, TryAgain
from partsong.simulations.commands.doing import silent
from partsong.simulations.commands.finished import finished_run


def export_adapter(run_path: Path, out: Path) -> Path:
    """Copy the PEFT directory of a finished run to `out`.

    Raises:
        DataError: the run has no adapter, or `out` exists; nothing was written.
        TryAgain: `out` cannot be written; nothing is left of it.
    """
    run, _ = finished_run(run_path)
    _refuse_existing(out)
    with _whole(out) as part:
        shutil.copytree(run.adapter, part)
    return out


def export_merged(run_path: Path, out: Path, *, say: Callable[[str], None] = silent) -> Path:
    """Write the base model with the adapter merged into its weights, ready for programs that know no LoRA.

    Args:
        run_path: of the run.
        out: folder to write.
        say: told what is done next.
    Raises:
        DataError: the run has no adapter, or `out` exists; nothing was written.
        ModelError: the base model is gone or another one.
        TryAgain: `out` cannot be written; nothing is left of it.
    """
    run, source = finished_run(run_path)
    _refuse_existing(out)
    plan = json.loads(run.plan.read_text())
    say("looking at the base model's files")
    files = locate(source, expected_sha256=plan["base_sha256"])
    say("merging the adapter into its weights")
    with _quiet():
        base = _base(files.folder, labels=plan["labels"])
        merged = PeftModel.from_pretrained(base, run.adapter).merge_and_unload()
    say(f"writing {out}")
    with _whole(out) as part, _quiet():
        merged.save_pretrained(part)
        transformers.AutoTokenizer.from_pretrained(files.folder, local_files_only=True).save_pretrained(part)
        for name in ("privacy.json", "provenance.json", "README.md"):
            shutil.copy(run.adapter / name, part / name)
    return out


@contextmanager
def _whole(out: Path) -> Iterator[Path]:
    """Give a folder's temporary path; on success it becomes `out`, otherwise nothing of it is left."""
    part = out.with_name(f".{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        yield part
        part.rename(out)
    except (OSError, shutil.Error, SafetensorError) as err:
        raise TryAgain(f"{out}: could not be written ({type(err).__name__}); nothing of it is left") from err
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _refuse_existing(out: Path) -> None:
    if out.exists():
        raise DataError(str(out), found="something there already", expected="a path that does not exist")


def _base(folder: Path, *, labels: list[str]) -> Any:
    """Load the base; where the run had labels, with a head for them, which the adapter fills."""
    kind: Any = transformers.AutoModelForCausalLM
    more: dict[str, Any] = {}
    if labels:
        kind = transformers.AutoModelForSequenceClassification
        more = {
            "id2label": dict(enumerate(labels)),
            "label2id": {label: i for i, label in enumerate(labels)},
            "ignore_mismatched_sizes": True,
        }
    return kind.from_pretrained(folder, dtype=torch.float32, local_files_only=True, use_safetensors=True, **more)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers from reporting the fresh head and PEFT from using an old name of transformers."""
    talk = transformers.utils.logging
    before, bars = talk.get_verbosity(), talk.is_progress_bar_enabled()
    talk.set_verbosity_error()
    talk.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`", category=FutureWarning)
            yield
    finally:
        talk.set_verbosity(before)
        if bars:
            talk.enable_progress_bar()
