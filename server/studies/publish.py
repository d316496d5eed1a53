"""The finished adapter as a PEFT directory: what transformers, PEFT and vLLM load as it is.

adapter_config.json  adapter_model.safetensors   as PEFT writes them
README.md                                        model card
privacy.json                                     unit, epsilon, delta, accountant, clip, noise, steps
provenance.json                                  base digest, plan, rounds, contributors
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.numpy import save

from partsong.common.adapters.adapter import FloatVec
from partsong.common.adapters.lora import published
from partsong.common.build import to_tree
from partsong.common.files import make_folder, sync_folder, write_bytes, write_json
from partsong.common.plan import Plan


def publish(
    folder: Path,
    *,
    plan: Plan,
    trained_P: FloatVec,
    frozen_F: FloatVec,
    peft: Mapping[str, Any],
    privacy: dict[str, Any],
    provenance: dict[str, Any],
    card: str,
) -> None:
    """Write the directory, whole or not at all; an older one is replaced.

    An older one steps aside as `.NAME.old` for the moment in which the new one takes its name, and is then deleted.

    Args:
        folder: where the directory will be.
        plan: of the run.
        trained_P: the global adapter, trained part.
        frozen_F: its frozen part.
        peft: all of PEFT's options; see `partsong.server.studies.peft_options`.
        privacy: what `privacy.json` says.
        provenance: what `provenance.json` says.
        card: text of README.md.
    Raises:
        TryAgain: the disk is full; `folder` is as it was.
    """
    scratch, aside = folder.with_name(f".{folder.name}.part"), folder.with_name(f".{folder.name}.old")
    shutil.rmtree(scratch, ignore_errors=True)
    make_folder(scratch)
    try:
        tensors = published(plan.layout, trained_P=trained_P, frozen_F=frozen_F)
        write_bytes(scratch / "adapter_model.safetensors", save(tensors, metadata={"format": "pt"}))
        write_json(scratch / "adapter_config.json", dict(peft))
        write_bytes(scratch / "README.md", card.encode())
        write_json(scratch / "privacy.json", to_tree(privacy))
        write_json(scratch / "provenance.json", to_tree(provenance))
        if folder.exists():
            shutil.rmtree(aside, ignore_errors=True)
            folder.rename(aside)
        scratch.rename(folder)
        sync_folder(folder.parent)
        shutil.rmtree(aside, ignore_errors=True)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
