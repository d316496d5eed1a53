"""What a run did, in words: the text report, the model card, and the two JSON files beside the adapter.

Everything is a function of public facts: the plan and the history of sums. Nothing here knows a single site's values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from partsong.common.accounting import Unit, neighbours
from partsong.common.build import to_tree
from partsong.common.charter import Charter
from partsong.common.methods import METHODS
from partsong.common.plan import DpPlan, Plan
from partsong.common.thresholds import smallest_sum


@dataclass(frozen=True, kw_only=True, slots=True)
class SumFacts:
    """How the secure sum of a run was set up, and who checked it."""

    charter_sha256: str
    members: int
    smallest_sum: int
    """Fewest sites that a sum over a whole roster may hold."""
    minimum_honest: int
    corrupt_tolerance: int
    checked_by: tuple[str, ...]
    """Sites that recomputed the published adapter from the sums and signed that it is right."""


def sum_facts(charter: Charter, *, checked_by: tuple[str, ...]) -> SumFacts:
    """Say how the sums under a charter are set up, and who checked them."""
    return SumFacts(
        charter_sha256=charter.hash.hex(),
        members=len(charter.sites),
        smallest_sum=smallest_sum(roster=len(charter.sites), floors=charter.floors),
        minimum_honest=charter.minimum_honest,
        corrupt_tolerance=charter.corrupt_tolerance,
        checked_by=checked_by,
    )


_UNIT_GAPS = {
    "record": "several records of one person, at one site or at several: epsilon counts single records",
    "patient": "a person with two names in the unit column, or at more than two sites",
}
NOT_COVERED = (
    "what the adapter teaches about everybody: differential privacy hides presence, not conclusions",
    "who took part, when, with how many bytes: visible to the coordinator",
    "a site that trains on wrong records: sums do not show it",
)


def not_covered(unit: Unit) -> tuple[str, ...]:
    """Say what an epsilon of this unit does not promise."""
    return (_UNIT_GAPS[unit], *NOT_COVERED)


def guarantee(plan: Plan, *, epsilon: float | None) -> dict[str, Any] | None:
    """Give an epsilon together with all that it needs to mean something; None without differential privacy."""
    if plan.dp is None:
        return None
    return {
        "epsilon": epsilon,
        "delta": plan.dp.delta,
        "unit": plan.dp.unit,
        "contribution_bound": plan.dp.contribution_bound,
        "neighbours": neighbours(plan.dp.unit),
    }


def privacy_facts(
    plan: Plan, *, epsilon: float | None, at_two_sites: float | None, marks: Sequence[str]
) -> dict[str, Any]:
    """Give `privacy.json`: the guarantee and everything that it rests on.

    Args:
        plan: of the run.
        epsilon: spent at each site; None without differential privacy.
        at_two_sites: what it comes to for a unit that two sites hold.
        marks: what the run does not protect.
    """
    if plan.dp is None:
        return {"guarantee": None, "marks": list(marks)}
    unit = plan.dp.unit
    return {
        "guarantee": guarantee(plan, epsilon=epsilon),
        "planned_epsilon": plan.dp.epsilon,
        "accountant": "PLD (dp-accounting)",
        "sampling": {"kind": "Poisson", "rate": plan.sampling_rate, "steps_per_round": plan.training.steps_per_round},
        "clip_norm": plan.dp.clip_norm,
        "clipping": plan.dp.clipping,
        "noise": plan.dp.noise,
        "noise_multiplier": plan.dp.noise_multiplier,
        "loss_release": {"clip": plan.dp.loss_clip, "noise_multiplier": plan.dp.loss_noise_multiplier},
        "across_sites": {
            "disjoint": epsilon,
            "unit_at_two_sites": at_two_sites,
            "delta": plan.dp.delta,
            "rule": "the largest epsilon of any site where the sites' units are disjoint, else the composition of them",
        },
        "not_covered": list(not_covered(unit)),
        "marks": list(marks),
    }


def provenance_facts(
    plan: Plan, *, history: Sequence[dict[str, Any]], config_sha256: str, base_name: str, secure_sum: SumFacts | None
) -> dict[str, Any]:
    """Give `provenance.json`: what went in and who contributed."""
    return {
        "run": plan.run,
        "plan_sha256": plan.sha256,
        "config_sha256": config_sha256,
        "base": {"name": base_name, "sha256": plan.base_sha256},
        "method": {"name": plan.method, "exact": METHODS[plan.method].exact, "source": METHODS[plan.method].source},
        "rounds": [{"round": h["round"], "sites": h["sites"], "lost": h["lost"]} for h in history],
        "contributors": sorted({site for h in history for site in h["sites"]}),
        "secure_sum": None if secure_sum is None else to_tree(secure_sum),
    }


def text_report(
    plan: Plan,
    *,
    history: Sequence[dict[str, Any]],
    epsilon: float | None,
    at_two_sites: float | None,
    marks: Sequence[str],
    base_name: str,
    secure_sum: SumFacts | None,
) -> str:
    """Write the report that a person reads in a terminal."""
    lines = [f"partsong run {plan.run}", ""]
    lines += ["What this run does not protect", *(f"  - {mark}" for mark in marks), ""]
    lines += ["Privacy", *_privacy_lines(plan, epsilon, at_two_sites), ""]
    lines += ["What left each site", *_bytes_lines(plan, history), ""]
    lines += ["Who can read it", *_sum_lines(secure_sum), ""]
    lines += ["Rounds", *(_round_line(h) for h in history), ""]
    method = METHODS[plan.method]
    exact = "the averaged adapter is the average of the products" if method.exact else "averaged factors, not exact"
    lines += [
        "Adapter",
        f"  base {base_name}, sha256 {plan.base_sha256}",
        f"  method {plan.method} ({exact}), {plan.layout.size(trained=True):,} trained parameters",
        f"  plan sha256 {plan.sha256}",
    ]
    return "\n".join(lines) + "\n"


def model_card(plan: Plan, *, epsilon: float | None, marks: Sequence[str], base_name: str) -> str:
    """Write the README.md of the adapter directory."""
    kind = "AutoModelForSequenceClassification" if plan.task == "classification" else "AutoModelForCausalLM"
    more = f", num_labels={len(plan.labels)}" if plan.labels else ""
    claim = (
        f"{plan.dp.unit.capitalize()}-level differential privacy at every site: epsilon {epsilon:.2f} at delta "
        f"{plan.dp.delta:g}, for {neighbours(plan.dp.unit)}."
        if plan.dp is not None and epsilon is not None
        else "Trained without differential privacy."
    )
    gaps = NOT_COVERED if plan.dp is None else not_covered(plan.dp.unit)
    return f"""---
library_name: peft
base_model: {base_name}
tags: [lora, federated-learning, {"differential-privacy" if plan.dp else "not-private"}]
---
# Adapter of run {plan.run}

A LoRA adapter for {base_name}, trained by several sites on records that stayed where they are.

{claim} The details stand in `privacy.json`, the origin in `provenance.json`.

```python
from peft import PeftModel
from transformers import {kind}

base = {kind}.from_pretrained(BASE_FOLDER{more})
model = PeftModel.from_pretrained(base, ADAPTER_FOLDER)
```

## Limits

{chr(10).join(f"- {mark}" for mark in (*marks, *gaps))}
"""


def _privacy_lines(plan: Plan, epsilon: float | None, at_two_sites: float | None) -> list[str]:
    dp = plan.dp
    if dp is None or epsilon is None or at_two_sites is None:
        return ["  none: trained without differential privacy, as asked for"]
    steps = f"{plan.training.steps_per_round} steps a round"
    return [
        f"  epsilon {epsilon:.3f} of {dp.epsilon:g} at delta {dp.delta:g}, at each site; unit: one {dp.unit}",
        f"  neighbours: {neighbours(dp.unit)}",
        f"  over all sites: {epsilon:.3f} for a {dp.unit} at one of them, {at_two_sites:.3f} for a {dp.unit} at two",
        f"  DP-SGD: clip {dp.clip_norm:g}, {dp.noise} noise, multiplier {dp.noise_multiplier:.4f}",
        *_bound_line(dp),
        f"  Poisson sampling rate {plan.sampling_rate:g}, {steps}; PLD accountant",
        f"  in the same epsilon: the loss, clip {dp.loss_clip:g}, noise multiplier {dp.loss_noise_multiplier:.4f}",
        *(f"  not covered: {gap}" for gap in not_covered(dp.unit)),
    ]


def _bound_line(dp: DpPlan) -> list[str]:
    if dp.contribution_bound is None:
        return []
    return [f"  of each sampled patient the mean of at most {dp.contribution_bound} records, drawn anew in each step"]


def _bytes_lines(plan: Plan, history: Sequence[dict[str, Any]]) -> list[str]:
    total: dict[str, int] = {}
    for entry in history:
        for site, size in entry["bytes_out"].items():
            total[site] = total.get(site, 0) + size
    each = plan.encoding_of(1).bytes() / plan.update_size(1)
    lines = [f"  {site}: {size:,} bytes in all" for site, size in sorted(total.items())]
    return [*lines, f"  words of the update and the loss, {each:.2f} bytes a trained parameter; shares, signatures"]


def _sum_lines(found: SumFacts | None) -> list[str]:
    if found is None:
        return ["  the coordinator: secure_sum=off, vectors were added up as they came"]
    return [
        "  nobody: vectors were masked (common/PROTOCOL.md); the coordinator opened their sums and nothing else",
        f"  holds while at most {found.corrupt_tolerance} of {found.members} sites work with the coordinator",
        f"  each sum holds at least {found.smallest_sum} sites, {found.minimum_honest} of them honest",
        f"  checked: {len(found.checked_by)} of {found.members} sites recomputed the adapter from the sums and signed",
        f"  charter sha256 {found.charter_sha256}",
    ]


def _round_line(entry: dict[str, Any]) -> str:
    if not entry["sites"]:
        return f"  {entry['round']:3d}  {entry['reason']}"
    lost = "".join(f", without {site} ({why})" for site, why in entry["lost"].items())
    epsilon = "" if entry["epsilon"] is None else f"  epsilon {entry['epsilon']:.2f}"
    held = entry.get("held_out")
    score = "" if not held else f"  held-out loss {held['loss']:.3f} exact {held['exact']:.3f}"
    return f"  {entry['round']:3d}  loss {entry['loss']:.3f}{epsilon}{score}  {len(entry['sites'])} sites{lost}"
