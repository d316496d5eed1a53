"""What a coordinator kept of the sums, read back: followed from the start, and recomputed where it still can be.

The check stops at the first result that differs: what comes after it follows from nothing.

Specification: PROTOCOL.md section 8.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from partsong.common.adapters.adapter import FloatVec, digest
from partsong.common.codec import unpack
from partsong.common.errors import DataError
from partsong.common.identity.charter import Charter
from partsong.common.plan import Plan
from partsong.common.secure_sum.history import Followed, History, HistoryDiffers
from partsong.common.secure_sum.messages import Signed
from partsong.common.secure_sum.recompute import recompute
from partsong.common.secure_sum.result import OpenedSum
from partsong.common.secure_sum.transcript import RunFacts
from partsong.server.adapter_file import read_adapter
from partsong.server.run_files import ROLLBACK, RunFiles
from partsong.server.secure_sum.sum_journal import KeptResult, Spooled, SumJournal
from partsong.simulations.verify.findings import Findings

FOLDER = "coordinator"
START, RUN, RESULTS = f"{FOLDER}/start.safetensors", f"{FOLDER}/run.json", f"{FOLDER}/results.jsonl"
VERDICTS = f"{FOLDER}/verdicts"

Tick = Callable[[int, int], None]
"""Told how many rounds are done, and of how many."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sums:
    """Sums that all hold, and what follows from them."""

    adapter_P: FloatVec
    """(P,) trained part after the last of them, or after the round that the run was rolled back to."""
    sites: dict[int, tuple[str, ...]]
    """By round, whose vectors are in its sum."""
    checked_by: tuple[str, ...] | None
    """Sites that signed that the last sum and the adapter that follows from it are right; None: others are kept."""
    last: OpenedSum
    """What a question was answered with, where the plan asks one."""


def check(path: Path, plan: Plan, charter: Charter, findings: Findings, tick: Tick) -> Sums | None:
    """Follow every sum of a run; None where something differs.

    Args:
        path: the run directory.
        plan: of the run.
        charter: whose signatures hold.
        findings: takes up what is found.
        tick: told how far this is.
    """
    journal = SumJournal(path / FOLDER)
    run = findings.attempt(RUN, lambda: _facts(journal, charter, plan))
    if run is None:
        return None
    findings.right(RUN, f"set up among {len(run.members)} sites, for this plan under this charter")
    history = findings.attempt(START, lambda: History(plan, run, start_P=read_start(path, plan)))
    results = findings.attempt(RESULTS, lambda: _results(journal))
    if history is None or results is None:
        return None
    findings.right(START, "the start that the plan names")
    kept, published = _Kept(journal=journal, run=run), RunFiles(path).rolled_back_to()
    after = {0: history.adapter_P} if published == 0 else {}
    sites = _rounds(kept, results, history, findings, tick, after=after, wanted=published)
    if sites is None or history.last is None:
        return None
    _incomplete(plan, journal, results, findings)
    sums = Sums(
        adapter_P=history.adapter_P, sites=sites, checked_by=_checked_by(kept, history, findings), last=history.last
    )
    return sums if published is None else _rolled_back(sums, after, published, findings)


def _rolled_back(sums: Sums, after: dict[int, FloatVec], number: int, findings: Findings) -> Sums | None:
    """Expect the adapter after an earlier round, which nobody has signed for."""
    if number not in after:
        findings.wrong(ROLLBACK, f"found round {number}, expected one with a sum")
        return None
    findings.right(ROLLBACK, f"back to the adapter after round {number}; what sites signed is about the last one")
    return replace(sums, adapter_P=after[number], checked_by=() if sums.checked_by is not None else None)


def read_start(path: Path, plan: Plan) -> FloatVec:
    """Read the trained part before the first round.

    Raises:
        DataError: missing, or not the start that the plan names.
    """
    trained_P, frozen_F = read_adapter(path / START, plan.layout)
    if (digest(trained_P), digest(frozen_F)) != (plan.start_sha256, plan.frozen_sha256):
        raise DataError(START, found="another adapter", expected="the start that the plan names")
    return trained_P


@dataclass(frozen=True, kw_only=True, slots=True)
class _Kept:
    """The coordinator's folder, and under which keys it was written."""

    journal: SumJournal
    run: RunFacts

    def names(self, numbers: tuple[int, ...]) -> tuple[str, ...]:
        return tuple(self.run.charter.sites[number].id for number in numbers)


def _facts(journal: SumJournal, charter: Charter, plan: Plan) -> RunFacts:
    run = journal.load_run(charter, plan_sha256=plan.sha256)
    if run is None:
        raise DataError(RUN, found="nothing", expected="what set-up ended with")
    listed = set(range(len(charter.sites)))
    if not run.members or list(run.members) != sorted(set(run.members) & listed):
        raise DataError(RUN, found="members that the charter does not list", expected="numbers of its sites, ascending")
    with tempfile.TemporaryDirectory() as scratch:
        SumJournal(Path(scratch)).save_run(run, plan_sha256=plan.sha256)
        written = (Path(scratch) / "run.json").read_bytes()
    if (journal.folder / "run.json").read_bytes() != written:
        raise DataError(RUN, found="another form than a run writes", expected="the file as it was")
    return run


def _results(journal: SumJournal) -> list[KeptResult]:
    try:
        kept = journal.results()
    except (KeyError, TypeError, ValueError, OverflowError) as err:
        raise DataError(RESULTS, found="a line that is no result's", expected="number, round and roster") from err
    if not kept:
        raise DataError(RESULTS, found="no result", expected="one of each round that has a sum")
    return kept


def _rounds(
    kept: _Kept,
    results: list[KeptResult],
    history: History,
    findings: Findings,
    tick: Tick,
    *,
    after: dict[int, FloatVec],
    wanted: int | None,
) -> dict[int, tuple[str, ...]] | None:
    """Take up result after result; None where one differs, or a sum is not what its vectors add up to.

    The adapter after round `wanted` is put into `after`.
    """
    sites: dict[int, tuple[str, ...]] = {}
    sound = True
    for done, result in enumerate(results):
        tick(done, len(results))
        place = f"{FOLDER}/results/{result.round:06d}.result"
        followed = findings.attempt(place, lambda r=result: _follow(kept, history, r), number=result.number)  # type: ignore[misc]
        if followed is None:
            for left in results[done + 1 :]:
                findings.not_checked(
                    f"{FOLDER}/results/{left.round:06d}.result", "follows a result that differs", number=left.number
                )
            return None
        if result.number == wanted:
            after[result.number] = history.adapter_P
        findings.right(place, _words(followed, first=done == 0), number=result.number)
        sites[result.number] = kept.names(followed.opened.sites)
        sound &= _recomputed(kept, result, followed, findings)
    tick(len(results), len(results))
    return sites if sound else None


def _follow(kept: _Kept, history: History, result: KeptResult) -> Followed:
    followed = history.take(kept.journal.read(result), number=result.number)
    if (followed.opened.header.round, kept.names(followed.roster)) != (result.round, result.roster):
        raise HistoryDiffers(result.number, found="another number or roster in it", expected=f"those of {RESULTS}")
    return followed


def _words(followed: Followed, *, first: bool) -> str:
    sites, roster = len(followed.opened.sites), len(followed.roster)
    before = "" if first else f"; {followed.found_right} signed that the sum before it is right"
    return f"signatures, quorum, query, start and order; {sites} of {roster} sites in the sum{before}"


def _recomputed(kept: _Kept, result: KeptResult, followed: Followed, findings: Findings) -> bool:
    """Recompute a sum whose masked vectors are kept; False where it differs."""
    place, number = f"{FOLDER}/spool/{result.round:06d}", result.number
    sites = followed.opened.sites
    if not (kept.journal.folder / "spool" / f"{result.round:06d}").is_dir():
        findings.not_checked(place, "the sum: its check window is over, its masked vectors are deleted", number=number)
        return True
    spooled = findings.attempt(place, lambda: _spooled(kept.journal, result), number=number)
    if spooled is None:
        return False
    if set(sites) - set(spooled.vectors) or not spooled.unmasks:
        findings.not_checked(place, "the sum: not all of its masked vectors and UNMASKs are there", number=number)
        return True

    def again() -> None:
        unmasks = [unpack(Signed, message) for _, message in sorted(spooled.unmasks.items())]
        recompute(result=kept.journal.read(result), vectors=spooled.vectors, unmasks=unmasks, run=kept.run)

    return findings.require(place, again, f"{len(sites)} masked vectors add up to the sum", number=number)


def _spooled(journal: SumJournal, result: KeptResult) -> Spooled:
    try:
        spooled = journal.spooled(result.round)
    except ValueError as err:
        raise DataError("spool", found="a file of no site", expected="NUMBER.words and NUMBER.unmask") from err
    if spooled is None:
        raise AssertionError("the caller has seen its folder")
    return spooled


def _checked_by(kept: _Kept, history: History, findings: Findings) -> tuple[str, ...] | None:
    """Read the sites' last words; None where they are about something else."""
    verdicts = findings.attempt(VERDICTS, kept.journal.verdicts)
    if not verdicts:
        findings.not_checked(VERDICTS, "no site's word on the last sum is kept: it rests on the coordinator's")
        return None if verdicts is None else ()
    found = findings.attempt(VERDICTS, lambda: kept.names(history.found_right(verdicts)))
    if found is not None:
        of = len(kept.run.members)
        findings.right(VERDICTS, f"{len(found)} of {of} sites signed that the last sum and the adapter are right")
    return found


def _incomplete(plan: Plan, journal: SumJournal, results: list[KeptResult], findings: Findings) -> None:
    """Say which rounds have no sum, and which files nobody refers to."""
    missing = sorted(set(range(1, plan.rounds + 1)) - {result.number for result in results})
    if missing:
        findings.not_checked(RESULTS, f"why no sum of round {', '.join(map(str, missing))} is kept")
    named = {f"{result.round:06d}.result" for result in results}
    for file in sorted((journal.folder / "results").glob("*")):
        if file.name not in named:
            findings.not_checked(f"{FOLDER}/results/{file.name}", f"{RESULTS} does not name it")
