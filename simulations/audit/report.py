"""An audit in words and as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import partsong
from partsong.common.build import sha256_of
from partsong.simulations.audit.adapter import AttackedRun
from partsong.simulations.audit.extraction import GUESSING
from partsong.simulations.audit.membership import Interval
from partsong.simulations.audit.memory import Memory
from partsong.simulations.audit.run import Audit

NOT_SHOWN = (
    "that the claim is true: a bound from below that lies below the claim only failed to contradict it",
    "anything about single records: the canaries are made up, and the claim is about the mechanism",
    "the secure sum, the site's ledger, its random generator, its memory or its timing",
    "attackers who see less: the watched rehearsal gives the guesser every release, the text attacks only the adapter",
)
NOT_SHOWN_OF_TEXTS = (
    "stronger attacks: shadow models, many repetitions of one secret, prompts that an attacker tunes",
    "privacy: an attack that fails proves nothing about the next one; the claim rests on the engine and its noise",
)
NOT_SHOWN_OF_RUN = (
    "a bound on epsilon: no coin decided who was in",
    "that training is what tells members from others: held-out records may be of another kind to begin with",
    *NOT_SHOWN_OF_TEXTS,
)


def facts(audit: Audit) -> dict[str, Any]:
    """Give the object that `--json` prints and the file holds."""
    verdict = audit.verdict
    return {
        "audit": "rehearsal",
        "passed": not verdict.failed,
        "failed": list(verdict.failed),
        "claim": dataclasses.asdict(verdict.claim) | {"epsilon": verdict.claim.epsilon},
        "confidence": verdict.confidence,
        "false_alarm_at_most": 1 - verdict.confidence,
        "bounds": [dataclasses.asdict(bound) for bound in verdict.bounds],
        "checks": [dataclasses.asdict(check) for check in verdict.checks],
        "memory": None if audit.memory is None else _memory_facts(audit.memory),
        "rehearsed": {
            "site": audit.site,
            "records": audit.records,
            "records_are": audit.config.audit.records if audit.config.data.builtin is None else "public",
            "steps": audit.steps,
            "noise_multiplier": audit.noise_multiplier,
            "sampling_rate": audit.config.privacy.sampling_rate,
            "canaries": audit.config.audit.canaries,
            "others": audit.config.audit.others,
            "step_trials": audit.config.audit.step_trials,
            "texts": audit.config.audit.texts,
        },
        "not_shown": [*NOT_SHOWN, *(NOT_SHOWN_OF_TEXTS if audit.memory else ())],
        "config_sha256": sha256_of(audit.config),
        "version": partsong.__version__,
    }


def facts_of_run(found: AttackedRun) -> dict[str, Any]:
    """Give the object that `--json` prints for a run's adapter."""
    return {
        "audit": "adapter",
        "run": found.run,
        "rounds": found.rounds,
        "private": found.private,
        "memory": _memory_facts(found.memory),
        "not_shown": list(NOT_SHOWN_OF_RUN),
        "version": partsong.__version__,
    }


def text(audit: Audit, *, records_are: str = "public") -> str:
    """Tell people."""
    verdict, claim = audit.verdict, audit.verdict.claim
    terms = f"noise multiplier {audit.noise_multiplier:g}, sampling rate {audit.config.privacy.sampling_rate:g}"
    alarm = f"a sound engine fails in at most {1 - verdict.confidence:.2%} of audits"
    lines = [
        f"Audit of {audit.steps} steps at one site ({audit.site}, {audit.records} {records_are} records), {terms}",
        f"claim: epsilon {claim.epsilon:.3f} at delta {claim.delta:g} for each {claim.unit} ({claim.relation})",
        f"confidence {verdict.confidence:.2%} over all tests: {alarm}",
        "",
        "lower bound on epsilon        bound   claim  at delta",
        *(
            f"  {b.name:<24} {b.epsilon:>8.3f} {b.claim:>7.3f}  {b.delta:<8.2g} {_mark(b.failed)}"
            for b in verdict.bounds
        ),
        *(f"    {b.name}: {b.seen}; assumes {b.assumes}" for b in verdict.bounds),
        "",
        "measured                      bound  promised",
        *(f"  {c.name:<24} {c.bound:>8.5g} {c.promised:>9.5g}  {_mark(c.failed)}" for c in verdict.checks),
        *(f"    {c.name}: {c.seen}" for c in verdict.checks),
    ]
    if audit.memory is not None:
        lines += ["", "random texts, half of them in:", *_memory_lines(audit.memory)]
    lines += _not_shown((*NOT_SHOWN, *(NOT_SHOWN_OF_TEXTS if audit.memory else ())))
    last = f"FAILED: {', '.join(verdict.failed)}" if verdict.failed else "not contradicted"
    return "\n".join([*lines, "", f"claim {last}", ""])


def text_of_run(found: AttackedRun) -> str:
    """Tell people about a run's adapter."""
    terms = "with differential privacy" if found.private else "NOT PRIVATE"
    return "\n".join(
        [
            f"Adapter of {found.run} after {found.rounds} rounds, {terms}: its training records against held-out ones",
            *_memory_lines(found.memory),
            *_not_shown(NOT_SHOWN_OF_RUN),
            "",
        ]
    )


def _memory_facts(memory: Memory) -> dict[str, Any]:
    return dataclasses.asdict(memory) | {"exposure_by_guessing_bits": GUESSING}


def _memory_lines(memory: Memory) -> list[str]:
    lines = []
    for attack in memory.attacks:
        sizes = f"{attack.members} in, {attack.others} out"
        lines.append(f"  membership by {attack.name}: AUC {_interval(attack.auc)}, {sizes}; 0.5 is guessing")
        lines += [
            f"    at {rate:.0%} false alarms {_interval(c)} of those in found" for rate, c in attack.caught.items()
        ]
    for kind, found in memory.verbatim.items():
        lines.append(f"  given back word for word, {kind}: {found.found} of {found.secrets}, {_interval(found.part)}")
    for kind, exposed in memory.exposure.items():
        lines.append(
            f"  exposure, {kind}: {_interval(exposed.bits)} bits over {exposed.secrets}; {GUESSING:.2f} is guessing, 6 "
            "the most"
        )
    return lines


def _interval(found: Interval) -> str:
    return f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]"


def _mark(failed: bool) -> str:  # noqa: FBT001  # one of two words
    return "FAILED" if failed else "ok"


def _not_shown(what: Sequence[str]) -> list[str]:
    return ["", "What this does not show:", *(f"  - {line}" for line in what)]
