"""The state of a run after each round, on disk: what `--resume` continues from.

    checkpoint/round-0003.safetensors   adapter and optimizer memory, float64
    checkpoint/latest.json              which file counts, its digest, the rounds so far
    opened.jsonl                        rounds whose query went out, written before it did

Guarantees:
    - `latest.json` names a whole file, or there is none; a kill at any moment loses at most the round in flight;
    - a query that went out is on record before it did, so budget that a crash wasted is never forgotten.
"""

from __future__ import annotations

import errno
import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save_file

from partsong.common.adapters.methods import ServerState, Vec64
from partsong.common.errors import DataError
from partsong.common.files import append_line, is_full, read_lines, replacing, sha256_file, write_bytes

_LATEST, _OPENED = "latest.json", "opened.jsonl"


@dataclass(frozen=True, kw_only=True, slots=True)
class Saved:
    """What a checkpoint holds."""

    round: int
    """Last round that is finished; 0 before the first."""
    state: ServerState
    facts: dict[str, Any]
    """Whatever the run wants back: its history so far."""


class Checkpoints:
    """The checkpoints of one run directory."""

    def __init__(self, run_dir: Path) -> None:
        """Use `run_dir`, which need not exist yet."""
        self._folder, self._opened = run_dir / "checkpoint", run_dir / _OPENED

    def save(self, saved: Saved) -> None:
        """Write a checkpoint; once this returns, it survives a power cut.

        Raises:
            TryAgain: the disk is full; the previous checkpoint still counts.
        """
        name = f"round-{saved.round:04d}.safetensors"
        with replacing(self._folder / name) as part:
            _write({"adapter": saved.state.adapter_P, **saved.state.memory}, part)
            sha256 = sha256_file(part)
        latest = {
            "round": saved.round,
            "file": name,
            "sha256": sha256,
            "steps": saved.state.steps,
            "facts": saved.facts,
        }
        # Without indentation: of a long run the history is most of it, and is written after every round.
        write_bytes(self._folder / _LATEST, json.dumps(latest, ensure_ascii=False, allow_nan=False).encode())

    def load(self) -> Saved | None:
        """Read the newest checkpoint; None where there is none.

        Raises:
            DataError: the file is not the one that was saved; nothing is resumed from it.
        """
        pointer = self._folder / _LATEST
        if not pointer.exists():
            return None
        try:
            latest = json.loads(pointer.read_bytes())
            file = self._folder / Path(latest["file"]).name
            data = file.read_bytes() if file.exists() else b""
            if hashlib.sha256(data).hexdigest() != latest["sha256"]:
                raise _damaged(file.name, "the checkpoint that latest.json names")
            return Saved(round=int(latest["round"]), state=_state(data, latest["steps"]), facts=dict(latest["facts"]))
        except (ValueError, KeyError, TypeError, SafetensorError) as err:
            raise _damaged(_LATEST, "a checkpoint's round, file, digest and facts") from err

    def note_opened(self, *, number: int, attempt: int) -> None:
        """Record that a round's query is about to go out."""
        append_line(self._opened, {"round": number, "attempt": attempt})

    def attempts(self) -> Mapping[int, int]:
        """How often each round was opened."""
        try:
            return Counter(int(line["round"]) for line in read_lines(self._opened))
        except (KeyError, TypeError, ValueError) as err:
            raise _damaged(_OPENED, "a round on each line") from err


def _write(tensors: Mapping[str, Vec64], file: Path) -> None:
    """Write tensors from where they lie."""
    try:
        save_file(dict(tensors), file)
    except SafetensorError as err:
        if is_full(err):
            raise OSError(errno.ENOSPC, "no space left") from err
        raise


def _state(data: bytes, steps: int) -> ServerState:
    tensors = load(data)
    adapter_P = tensors.pop("adapter")
    memory = {name: value.astype(np.float64) for name, value in tensors.items()}
    return ServerState(adapter_P=adapter_P.astype(np.float64), memory=memory, steps=steps)


def _damaged(name: str, expected: str) -> DataError:
    return DataError(
        name, found="a damaged file", expected=expected, remedy="restore the run directory, or start a new run"
    )
