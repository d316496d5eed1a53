"""`partsong verify`: a finished run recomputed offline, from its public files.

Covers: an adapter that does not follow from the sums; sums that the sites of the charter did not sign, in another
order, of another plan, or, while the masked vectors are kept, that are not what the vectors add up to.
Does not cover: whose keys the charter lists, unless its hash is given by somebody who knows it; a last round that was
left out together with everything that followed from it; what the sites trained on.

It reads charter.json, plan.json, coordinator/ without its key, and adapter/ or answer.json; facts.json with its
journals and sites/ too, where they are there. Nothing is written there.
"""

from __future__ import annotations

import json
from pathlib import Path

from partsong.common.build import build, to_tree
from partsong.common.errors import ConfigError, DataError
from partsong.common.identity.charter import Charter
from partsong.common.identity.charter import read as read_charter
from partsong.common.plan import Plan
from partsong.server.report.claims import placement
from partsong.simulations.verify import kept_sums, published
from partsong.simulations.verify.findings import Findings, Verification
from partsong.simulations.verify.kept_answer import check_answer
from partsong.simulations.verify.kept_facts import check_facts
from partsong.simulations.verify.kept_ledgers import check_ledgers
from partsong.simulations.verify.kept_sums import Sums, Tick

_ADAPTER = "adapter"


def verify(path: Path, *, charter_sha256: str | None = None, tick: Tick = lambda _done, _of: None) -> Verification:
    """Check a run directory, or a copy of its public files.

    Args:
        path: the directory; nothing in it is changed.
        charter_sha256: of the charter that it has to be, in hex; None: whichever is there.
        tick: told how far the check is.
    Raises:
        DataError: `path` holds no run; nothing was checked.
    """
    if not (path / "plan.json").is_file():
        raise DataError(
            str(path), found="no plan.json in it", expected="the directory of a run, or a copy of its public files"
        )
    findings, charter = Findings(), None
    plan = findings.attempt("plan.json", lambda: _plan(path / "plan.json"))
    if plan is not None:
        findings.right("plan.json", f"a plan of {plan.rounds} rounds")
        if plan.masked:
            charter = _charter(path, findings, pinned=charter_sha256)
            _masked(path, plan, charter, findings, tick)
        else:
            _unmasked(path, plan, findings, pinned=charter_sha256)
    return Verification(
        masked=None if plan is None else plan.masked,
        charter_sha256=None if charter is None else charter.hash.hex(),
        plan_sha256=None if plan is None else plan.sha256,
        findings=tuple(findings.lines),
    )


def _plan(file: Path) -> Plan:
    data = file.read_bytes()
    try:
        plan = build(Plan, json.loads(data), where="plan.json")
    except (ConfigError, ValueError, RecursionError) as err:
        raise DataError("plan.json", found="no plan that can be read", expected="what the sites agreed to") from err
    if data != (json.dumps(to_tree(plan), indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode():
        raise DataError("plan.json", found="another form than a run writes", expected="the file as it was")
    return plan


def _charter(path: Path, findings: Findings, *, pinned: str | None) -> Charter | None:
    """Check the charter's signatures and, where somebody knows it, its hash."""
    place = "charter.json"
    signed = findings.attempt(place, lambda: read_charter((path / place).read_bytes()))
    if signed is None:
        return None
    found = signed.charter.hash.hex()
    if pinned is not None and pinned.lower() != found:
        findings.wrong(place, f"found sha256 {found}, expected {pinned}")
        return None
    findings.right(place, f"signed by the coordinator and all {len(signed.charter.sites)} sites")
    if pinned is None:
        findings.not_checked(place, "whose keys these are: give the sha256 that a site has pinned as --charter")
    return signed.charter


def _masked(path: Path, plan: Plan, charter: Charter | None, findings: Findings, tick: Tick) -> None:
    """Follow the sums from the start to the published adapter; stop where something differs."""
    sums = None if charter is None else kept_sums.check(path, plan, charter, findings, tick)
    if sums is None:
        findings.not_checked("adapter/", "what it holds follows from files that differ")
    else:
        _published(path, plan, sums, findings)
    check_ledgers(path, plan, sums, findings)
    if plan.question is not None:
        check_answer(path, plan, charter, sums, findings)
    elif sums is not None:
        check_facts(path, plan, charter, sums, findings)


def _unmasked(path: Path, plan: Plan, findings: Findings, *, pinned: str | None) -> None:
    """Check what can be checked of a run in which nobody signed anything."""
    if pinned is not None or any((path / name).exists() for name in ("charter.json", kept_sums.RUN)):
        findings.wrong("plan.json", "says secure_sum=off, expected a plan under a charter")
        return
    findings.not_checked("plan.json", "secure_sum=off: the sums are the coordinator's word, no site signed anything")
    findings.require(
        kept_sums.START,
        lambda: kept_sums.read_start(path, plan),
        "the start that the plan names",
    )
    _published(path, plan, None, findings)
    check_ledgers(path, plan, None, findings)
    if plan.question is not None:
        check_answer(path, plan, None, None, findings)
    else:
        check_facts(path, plan, None, None, findings)


def _published(path: Path, plan: Plan, sums: Sums | None, findings: Findings) -> None:
    """Compare the adapter directory with the sums; where nobody signed them, with the plan alone."""
    if plan.question is not None:
        return  # a question publishes no adapter
    folder, recomputed = path / _ADAPTER, None if sums is None else sums.adapter_P
    by_round = None if sums is None else sums.sites
    checks = {
        published.WEIGHTS: (
            lambda: published.require_weights(folder, plan, trained_P=recomputed, start=path / kept_sums.START),
            "every value follows from the start and the sums"
            if sums
            else "tensors and frozen part as planned, no more",
        ),
        published.OPTIONS: (lambda: published.require_options(folder, plan), "LoRA options as planned"),
        published.PRIVACY: (
            lambda: published.require_guarantee(folder, plan, rounds=max(by_round or (), default=0)),
            "no guarantee, as planned"
            if plan.dp is None
            else f"no less epsilon than the rounds with a sum cost; {placement(plan.dp)}",
        ),
        published.ORIGIN: (
            lambda: published.require_origin(
                folder, plan, sums=by_round, checked_by=None if sums is None else sums.checked_by
            ),
            "plan, base, contributors of each sum, who checked the last" if sums else "plan and base",
        ),
    }
    for name, (step, detail) in checks.items():
        findings.require(f"{_ADAPTER}/{name}", step, detail)
