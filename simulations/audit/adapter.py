"""A finished run's adapter, attacked with the run's own public records.

Covers: membership of training records against held-out ones, and completions that come back word for word.
Does not cover: a claim. There are no coins here: which records were in was never random, and held-out records may
    differ from the others in more than having been left out. So nothing passes or fails.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from partsong.common.errors import DataError
from partsong.server.checkpoint import Checkpoints
from partsong.simulations.audit.memory import Memory, compared
from partsong.simulations.audit.settings import Declared, require_public
from partsong.simulations.federation import fresh_adapter
from partsong.simulations.prepare import prepare
from partsong.simulations.run_dir import RunDir

MOST_RECORDS = 1000
"""Of each kind, evenly chosen."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AttackedRun:
    """What a run's adapter gives away."""

    run: str
    rounds: int
    private: bool
    """Whether the run had differential privacy."""
    memory: Memory


def attack_run(path: Path, *, declared: Declared, say: Callable[[str], None] = lambda _: None) -> AttackedRun:
    """Attack the adapter of a run with the records that it was made of, and with its held-out ones.

    Args:
        path: the run's directory.
        declared: what the run's `data.path` holds.
        say: told about steps that take longer than a moment.
    Raises:
        Refused: `private_records_in_audit`; nothing was read.
        DataError: no finished run, or one without held-out records.
    """
    run, config = RunDir.reopen(path)
    require_public(config, declared=declared)
    saved = Checkpoints(path).load()
    if saved is None:
        raise DataError(str(path), found="no checkpoint in it", expected="the directory of a run")
    prepared = prepare(config, say=say)
    if prepared.held_out is None:
        raise DataError(str(path), found="a run without held-out records", expected="data.held_out, to compare with")
    trained = [record for name in sorted(prepared.sites) for record in prepared.sites[name].records]
    members, others = _some(len(trained)), _some(len(prepared.held_out.records))
    records = [*(trained[i] for i in members), *(prepared.held_out.records[i] for i in others)]
    start_P, frozen_F = fresh_adapter(prepared)
    prepared.host.put(frozen_F, trained=False)
    say(f"scoring {len(members)} training records and {len(others)} held-out ones")
    memory = compared(
        prepared.host,
        records,
        np.arange(len(records)) < len(members),
        start_P=start_P,
        adapter_P=saved.state.adapter_P.astype(np.float32),
        batch_size=config.training.per_device_eval_batch_size,
    )
    return AttackedRun(run=run.name, rounds=saved.round, private=config.privacy.mode == "dp", memory=memory)


def _some(size: int) -> list[int]:
    return [int(i) for i in np.linspace(0, size - 1, min(size, MOST_RECORDS)).round()]
