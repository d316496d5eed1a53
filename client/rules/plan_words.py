"""A plan in words, and what is different about it, for the person who has to agree.

Covers: every field of a plan: two plans that differ give at least one line. What comes from a coordinator is shown
without control characters and cut short, so that it cannot play with the terminal.
Does not cover: whether the plan is allowed (`consent`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from partsong.client.rules.consent import bytes_out, largest_rank, trained_modules
from partsong.common.build import to_tree
from partsong.common.plan import Plan
from partsong.common.privacy.terms import DpPlan

LONGEST_VALUE = 60
MOST_LINES = 40

_TOLD = (
    "run",
    "base_sha256",
    "rounds",
    "labels",
    "minimum_cohort",
    "frozen_sha256",
    "start_sha256",
    "masked",
    "dp",
    "layout",
)
"""Fields that have words of their own."""
_TOLD_LORA = ("r", "target_modules")


def summary(plan: Plan) -> tuple[str, ...]:
    """Say what a plan would do."""
    return (
        f"run {shown(plan.run)}: {plan.study}, {_rounds(plan)} of {plan.training.steps_per_round} steps",
        f"base {plan.base_sha256[:12]}, rank {largest_rank(plan)} on {_listed(trained_modules(plan))}",
        *_question(plan),
        *_vote(plan),
        *_groups(plan),
        _privacy(plan.dp),
        f"{size(bytes_out(plan))} leave {'masked' if plan.masked else 'UNMASKED'}, {plan.minimum_cohort} sites or more",
    )


def differences(plan: Plan, last: Plan | None) -> tuple[str, ...]:
    """Say what is different from the last approved job, the weightiest first.

    Returns:
        A line for each difference: `rank 8 -> 16`, `epsilon +0.7 (3.3 -> 4)`, `14 MB leave (7 MB before)`. Nothing for
        the very same plan.
    """
    if last is None:
        return ("the first job of this purpose",)
    if plan.sha256 == last.sha256:
        return ()
    lines = [
        *_masking_changes(plan, last),
        *_privacy_changes(plan, last),
        *_shape_changes(plan, last),
        *_other_changes(plan, last),
    ]
    if not lines:
        lines = ["the same job once more: it costs its whole epsilon again"]
    if plan.run != last.run:
        lines.append(f"run {shown(last.run)} -> {shown(plan.run)}")
    more = len(lines) - MOST_LINES
    return (*lines[:MOST_LINES], *([f"and {more} more differences"] if more > 0 else []))


def shown(value: object) -> str:
    """Give a value as text that a terminal only prints."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)
    if not text.isprintable():
        text = json.dumps(text)
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 3]}..."


def size(count: int) -> str:
    """Give a number of bytes as people say it: 14 MB."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= factor:
            return f"{count / factor:.3g} {unit}"
    return f"{count} bytes"


def _privacy(dp: DpPlan | None) -> str:
    if dp is None:
        return "NO differential privacy"
    words = f"epsilon {dp.epsilon:g} at delta {dp.delta:g} for one {dp.unit}, noise multiplier {dp.noise_multiplier:g}"
    if dp.on_sum is None:
        return words
    return f"{words} ON THE SUM of {dp.on_sum.minimum_sum} sites or more, {dp.on_sum.colluders} of which may collude"


def _question(plan: Plan) -> tuple[str, ...]:
    if plan.question is None:
        return ()
    asked = ", ".join(part.name for part in plan.question.parts)
    groups = f", told apart by {len(plan.question.groups)} groups" if plan.question.groups else ""
    return (f"asks for sums of {asked} and loss: {plan.question.size:,} numbers{groups}",)


def _vote(plan: Plan) -> tuple[str, ...]:
    if plan.vote is None:
        return ()
    noise = "" if plan.vote.noise_multiplier is None else f", noise multiplier {plan.vote.noise_multiplier:g}"
    return (f"test records vote on every second round, at most {plan.vote.most_votes:,} votes a site{noise}",)


def _rounds(plan: Plan) -> str:
    return f"{plan.rounds} rounds" + ("" if plan.groups is None else f", of which a site answers {plan.queries},")


def _groups(plan: Plan) -> tuple[str, ...]:
    if plan.groups is None:
        return ()
    sizes = ", ".join(str(len(group)) for group in plan.groups.sites[:6])
    more = plan.groups.count - 6
    sizes += f" and {more} more" if more > 0 else ""
    return (f"a sum is of one of {plan.groups.count} groups ({sizes} sites), whose median moves the adapter",)


def _masking_changes(plan: Plan, last: Plan) -> list[str]:
    if plan.masked == last.masked:
        return []
    return ["leaves masked (before: unmasked)" if plan.masked else "leaves UNMASKED, readable one by one"]


def _privacy_changes(plan: Plan, last: Plan) -> list[str]:
    new, old = plan.dp, last.dp
    if new is None or old is None:
        return [] if new is old else [_privacy(new) if new is None else f"{_privacy(new)} (none before)"]
    lines = []
    units = {str(dp.unit) for dp in (new, old)}
    if len(units) > 1:
        lines.append(f"hides a {new.unit} (before: a {old.unit})")
    if new.epsilon != old.epsilon:
        lines.append(f"epsilon {new.epsilon - old.epsilon:+.3g} ({old.epsilon:g} -> {new.epsilon:g})")
    rest = ({key: value for key, value in to_tree(dp).items() if key not in ("unit", "epsilon")} for dp in (new, old))
    return lines + _leaf_changes(*rest)


def _shape_changes(plan: Plan, last: Plan) -> list[str]:
    told: list[tuple[str, Callable[[Plan], Any]]] = [
        ("base model", lambda p: p.base_sha256[:12]),
        ("rank", largest_rank),
        ("rounds", lambda p: p.rounds),
        ("minimum cohort", lambda p: p.minimum_cohort),
    ]
    lines = [f"{name} {old} -> {new}" for name, of in told if (old := of(last)) != (new := of(plan))]
    lines += _vote(plan) if last.vote is None else []
    lines += _groups(plan) if last.groups is None else []
    lines += _set_changes("layers", trained_modules(plan), trained_modules(last))
    lines += _set_changes("labels", frozenset(plan.labels), frozenset(last.labels))
    if bytes_out(plan) != bytes_out(last):
        lines.append(f"{size(bytes_out(plan))} leave ({size(bytes_out(last))} before)")
    new, old = plan.layout.size(trained=True), last.layout.size(trained=True)
    if new != old:
        lines.append(f"{new:,} numbers are trained ({old:,} before)")
    elif plan.layout != last.layout:
        lines.append("other tensors are trained")
    if plan.frozen_sha256 != last.frozen_sha256:
        lines.append("another frozen part of the adapter")
    if plan.start_sha256 != last.start_sha256:
        lines.append("it starts from another adapter")
    if plan.labels != last.labels and set(plan.labels) == set(last.labels):
        lines.append("labels in another order")
    if plan.base_sha256 != last.base_sha256 and plan.base_sha256[:12] == last.base_sha256[:12]:
        lines.append("another base model with the same first digits")
    return lines


def _other_changes(plan: Plan, last: Plan) -> list[str]:
    now, before = _untold(plan), _untold(last)
    if plan.dp is not None and last.dp is not None:
        # A private plan says it twice, and is refused where both are not the same: it was told with the noise.
        del now["sampling_rate"], before["sampling_rate"]
    return _leaf_changes(now, before)


def _untold(plan: Plan) -> dict[str, Any]:
    tree = {key: value for key, value in to_tree(plan).items() if key not in _TOLD}
    lora = {key: value for key, value in tree["lora"].items() if key not in _TOLD_LORA}
    told = {"r": largest_rank(plan), "target_modules": sorted(trained_modules(plan))}
    # What the options of LoRA say, where it is not what the shapes say and was told already.
    odd = {key: value for key, value in told.items() if key in plan.lora and _plain(plan.lora[key]) != value}
    return tree | {"lora": lora | {key: plan.lora[key] for key in odd}}


def _plain(value: object) -> object:
    return sorted(value) if isinstance(value, (list, tuple)) and all(isinstance(v, str) for v in value) else value


def _leaf_changes(new: Mapping[str, Any], old: Mapping[str, Any]) -> list[str]:
    now, before = _leaves(new), _leaves(old)
    return [
        f"{shown(key)} {shown(before.get(key, 'nothing'))} -> {shown(now.get(key, 'nothing'))}"
        for key in sorted(now | before)
        if key not in now or key not in before or now[key] != before[key]
    ]


def _leaves(tree: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(tree, Mapping) and tree:
        pairs = [(f"{prefix}.{key}" if prefix else str(key), value) for key, value in tree.items()]
    elif isinstance(tree, (list, tuple)) and any(isinstance(item, (Mapping, list, tuple)) for item in tree):
        pairs = [(f"{prefix}[{place}]", value) for place, value in enumerate(tree)]
    else:
        return {prefix: tree}
    return {key: leaf for name, value in pairs for key, leaf in _leaves(value, name).items()}


def _set_changes(name: str, new: frozenset[str], old: frozenset[str]) -> list[str]:
    parts = [f"{sign} {_listed(names)}" for sign, names in (("+", new - old), ("-", old - new)) if names]
    return [f"{name} {', '.join(parts)}"] if parts else []


def _listed(names: frozenset[str]) -> str:
    first = [shown(name) for name in sorted(names)[:6]]
    return ", ".join(first) + (f" and {len(names) - 6} more" if len(names) > 6 else "") if first else "nothing"
