"""An earlier round's adapter of a finished run, published as its current one.

Covers: what is published is the adapter that follows from the start and the signed sums up to that round, computed
anew; no checkpoint is trusted. The decision is written down before anything is published, and the coordinator's
signature over the facts names the round. Sites take it because they have computed the same adapter when they checked
that round's sum.
Does not cover: what the later rounds have released. Their sums are known and their privacy is spent.

Specification: PROTOCOL.md section 13.
"""

from __future__ import annotations

from typing import Any

from partsong.common.adapters.adapter import FloatVec, digest
from partsong.common.build import to_tree
from partsong.common.errors import InputError
from partsong.common.files import write_json
from partsong.common.identity.charter import Charter
from partsong.common.plan import Plan
from partsong.common.secure_sum.history import History
from partsong.server.adapter_file import read_adapter
from partsong.server.checkpoint import Checkpoints
from partsong.server.planning import epsilon_after
from partsong.server.report.facts import sum_facts
from partsong.server.run import Result
from partsong.server.run_files import ROLLBACK, Rollback, RunFiles
from partsong.server.secure_sum.sum_journal import SumJournal


def roll_back(files: RunFiles, number: int, *, charter: Charter, now_ms: int) -> Result:
    """Go back to the adapter after a round and write that down; the caller publishes what is given.

    Args:
        files: of a finished run under the secure sum.
        number: of the round; 0 is the start. The last round with a sum takes an earlier rollback back.
        charter: of the run.
        now_ms: milliseconds since 1970.
    Raises:
        InputError: the run has no adapter, or no such round with a sum; nothing was changed.
        DataError: what the run has kept is damaged; nothing was changed.
        TryAgain: the disk is full; what was published before still is.
    """
    plan = files.read_plan()
    saved = Checkpoints(files.path).load()
    if not plan.masked or plan.question is not None or saved is None or not files.adapter.is_dir():
        raise InputError(
            "run", found="no published adapter under the secure sum", expected="a finished run of training"
        )
    start_P, frozen_F = read_adapter(files.start, plan.layout)
    trained_P, checked_by = adapter_after(files, plan, charter, number, start_P=start_P)
    if checked_by is not None:
        (files.path / ROLLBACK).unlink(missing_ok=True)
    else:
        rollback = Rollback(round=number, adapter_sha256=digest(trained_P), at_ms=now_ms)
        write_json(files.path / ROLLBACK, to_tree(rollback))
    history: list[dict[str, Any]] = list(saved.facts.get("history", []))
    return Result(
        plan=plan,
        trained_P=trained_P,
        frozen_F=frozen_F,
        history=history,
        epsilon=epsilon_after(plan, max(Checkpoints(files.path).attempts(), default=0)),
        secure_sum=sum_facts(charter, plan, checked_by=checked_by or ()),
    )


def adapter_after(
    files: RunFiles, plan: Plan, charter: Charter, number: int, *, start_P: FloatVec
) -> tuple[FloatVec, tuple[str, ...] | None]:
    """Follow the signed sums to a round.

    Returns:
        the adapter after it, and the sites that signed that it is right; None where it is not that of the last round,
        which is the only one that they sign.
    Raises:
        InputError: that round has no sum.
        HistoryDiffers: a sum that does not follow from those before it.
    """
    journal = SumJournal(files.coordinator)
    run, results = journal.load_run(charter, plan_sha256=plan.sha256), journal.results()
    numbers = [result.number for result in results]
    if run is None or number not in (0, *numbers):
        known = ", ".join(map(str, numbers)) or "none"
        raise InputError("round", found=str(number), expected=f"0, or a round with a sum: {known}")
    history = History(plan, run, start_P=start_P)
    for result in results:
        if result.number <= number:
            history.take(journal.read(result), number=result.number)
    if not numbers or number != numbers[-1]:
        return history.adapter_P, None
    right = history.found_right(journal.verdicts())
    return history.adapter_P, tuple(charter.sites[site].id for site in right)
