"""What a site's operator asks of the files in the site's directory, as data and in words.

DIR/policy.yaml     the site's rules
DIR/ledger.sqlite   what was spent
DIR/approvals/      plans that were proposed, and what was decided about them
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from partsong.client.budget.books import Grant
from partsong.client.budget.chain import Head
from partsong.client.budget.ledger import Ledger
from partsong.client.budget.ledger_export import to_tree
from partsong.client.home import ledger as ledgers
from partsong.client.home.layout import SiteHome
from partsong.client.rules.approval import Approvals, Decision
from partsong.client.rules.plan_words import shown, size, summary
from partsong.client.rules.policy import Policy
from partsong.common.build import build
from partsong.common.build import to_tree as plain
from partsong.common.deployment import SiteConfig
from partsong.common.errors import ConfigError, InputError

POLICY, LEDGER, APPROVALS = "policy.yaml", "ledger.sqlite", "approvals"


def read_site(home: SiteHome) -> SiteConfig:
    """Read a site's settings.

    Raises:
        ConfigError: there are none, or they say what no site can be.
    """
    try:
        tree = yaml.safe_load(home.config.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as err:
        raise ConfigError(
            home.config.name, found="no file that can be read", expected="the settings of a site", remedy="use --dir"
        ) from err
    return build(SiteConfig, tree, where=home.config.name)


def open_ledger(folder: Path) -> Ledger:
    """Open the ledger of a site; a command that looks never makes one, not even from what an export tells.

    Raises:
        InputError: there is none.
        Refused: it does not add up.
    """
    home = SiteHome(folder)
    if not home.ledger.is_file():
        raise InputError(
            str(folder), found=f"no {LEDGER} in it", expected="the directory of a site", remedy="name it with --dir"
        )
    return ledgers.open_ledger(home)


def open_approvals(folder: Path) -> Approvals:
    """Open the decisions of a site; without any, nothing was proposed yet.

    Raises:
        InputError: there is no such directory.
    """
    if not folder.is_dir():
        raise InputError(str(folder), found="no directory", expected="that of a site", remedy="name it with --dir")
    return Approvals(folder / APPROVALS)


def parse_head(text: str) -> Head:
    """Read `NUMBER:DIGEST`, as `verify` prints it."""
    found = re.fullmatch(r"([0-9]{1,15}):([0-9a-f]{64})", text.strip().lower())
    if found is None:
        raise InputError("--head", found=shown(text), expected="NUMBER:DIGEST, as verify prints it")
    return Head(number=int(found[1]), digest=found[2])


def ledger_words(tree: Mapping[str, Any]) -> str:
    """Say where each holding stands; `tree` is that of `ledger_export.to_tree`."""
    lines: list[str] = []
    for holding in tree["holdings"]:
        closed = "  CLOSED" if holding["ceiling"] == 0 else ""
        lines.append(f"{shown(holding['name'])}: {_of(holding['epsilon'], holding['ceiling'])}{closed}")
        lines.append(f"  at delta {holding['delta']:g}, by {holding['accountant']}; {holding['claims']} queries")
        lines.append(f"  neighbours: {holding['neighbours']}")
        lines += [f"  {shown(r['name'])}: {_of(r['epsilon'], r['most'])}" for r in holding["rations"]]
        most = "" if holding["unfinished_per_day"] is None else f" of {holding['unfinished_per_day']}"
        lines.append(f"  opened today without a sum: {holding['unfinished_today']}{most}")
    if tree["outstanding"]:
        lines.append(f"queries in doubt, which count as spent: {len(tree['outstanding'])}")
    return "\n".join(lines)


def verdict_tree(ledger: Ledger, *, heads: tuple[Head, ...]) -> dict[str, Any]:
    """Check every entry, and that the ledger holds what others remember of it.

    Raises:
        Refused: `ledger_damaged`, `ledger_rolled_back`.
    """
    ledger.require(*heads)
    tree = to_tree(ledger)
    return {
        "entries": len(tree["entries"]),
        "head": tree["head"],
        "anchored": tree["anchored"],
        "heads_checked": len(heads),
        "outstanding": tree["outstanding"],
    }


def verdict_words(tree: Mapping[str, Any]) -> str:
    """Say what a check has found."""
    head, anchored = tree["head"], tree["anchored"]
    vouched = (
        f"others have seen it up to entry {anchored['number']}"
        if anchored
        else "no other site has seen a head of it: an older copy that was put back would look the same"
    )
    return "\n".join(
        (
            f"{tree['entries']} entries, each follows from those before it",
            f"head {head['number']}:{head['digest']}",
            vouched,
            *([f"it holds the {tree['heads_checked']} heads that were given"] if tree["heads_checked"] else []),
        )
    )


def policy_tree(policy: Policy) -> dict[str, Any]:
    """Give a policy with all its defaults, and the budgets that follow from it."""
    return {"policy": plain(policy), "budgets": {name: plain(grant) for name, grant in policy.grants.items()}}


def policy_words(policy: Policy) -> str:
    """Say what a policy allows."""
    privacy, data, adapter = policy.privacy, policy.data, policy.adapter
    purposes = ", ".join(f"{name} ({rule.approval})" for name, rule in policy.purposes.items())
    patients = "an uncounted number of" if data.minimum_patients is None else data.minimum_patients
    bases = ", ".join(base[:12] for base in adapter.bases)
    lines = [
        f"purposes: {purposes or 'none, so every plan is refused'}",
        f"base models: {bases or 'none, so every plan is refused'}",
        f"layers: {', '.join(map(shown, adapter.target_modules)) or 'none, so every plan is refused'}",
        f"a plan: epsilon {privacy.max_epsilon:g} at most, stated at delta {privacy.max_delta:g} at most",
        f"its noise: a multiplier of {privacy.min_noise_multiplier:g} at least",
        f"it hides: one {' or one '.join(privacy.units)}",
        f"size of a plan: rank {adapter.max_r} and {size(adapter.max_bytes_out)} out at most",
        f"floors: {data.minimum_cohort} sites, {data.minimum_records} records, {patients} patients",
        *(_grant_words(name, grant) for name, grant in policy.grants.items()),
    ]
    if not policy.holdings:
        lines.append("holdings: none, so nothing can be spent")
    if privacy.allow_without_privacy:
        lines.append("WARNING: plans WITHOUT differential privacy are allowed")
    if privacy.allow_secure_sum_off:
        lines.append("WARNING: vectors may leave UNMASKED, readable one by one")
    return "\n".join(lines)


def decision_tree(approvals: Approvals, decision: Decision) -> dict[str, Any]:
    """Give a decision as data."""
    return {
        "plan": decision.plan_sha256,
        "run": decision.run,
        "coordinator": decision.coordinator,
        "purpose": decision.purpose,
        "state": decision.state,
        "by": decision.by,
        "rule": decision.rule,
        "reason": decision.reason,
        "summary": list(summary(approvals.plan(decision.plan_sha256))),
        "changes": list(approvals.changes(decision)),
    }


def decision_words(tree: Mapping[str, Any]) -> str:
    """Say what a plan wants, what is new about it and what was decided."""
    what = {"approved": "ACCEPTED", "refused": "REFUSED", "pending": "WAITS for a person"}[tree["state"]]
    why = f", rule {tree['rule']}" if tree["rule"] else ""
    because = [f"  because {shown(tree['reason'])}"] if tree["reason"] else []
    changes = [f"  * {line}" for line in tree["changes"]] or ["  * no other job was approved before"]
    head = f"{tree['plan'][:12]} {what} by {tree['by']}{why}" if tree["state"] != "pending" else None
    return "\n".join(
        (
            head or f"{tree['plan'][:12]} {what}",
            *because,
            f"  from coordinator {shown(tree['coordinator'])}",
            *(f"  {line}" for line in tree["summary"]),
            "  against the last approved job:",
            *changes,
        )
    )


def _grant_words(name: str, grant: Grant) -> str:
    parts = [f"epsilon {grant.epsilon:g} for life at delta {grant.delta:g}"]
    parts += [f"{ration:g} for {purpose}" for purpose, ration in grant.purposes.items()]
    parts += [] if grant.per_quarter is None else [f"{grant.per_quarter:g} a quarter"]
    parts.append(f"{grant.unfinished_per_day} unfinished queries a day")
    return f"holding {shown(name)}: {', '.join(parts)}"


def _of(epsilon: float | str, most: float | None) -> str:
    value = epsilon if isinstance(epsilon, str) else f"{epsilon:.4g}"
    return f"epsilon {value}" + ("" if most is None else f" of {most:g}")
