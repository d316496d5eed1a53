"""A site's answers as its operator reads them."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from datetime import UTC, datetime

from partsong.common.control.surfaces import Check, LedgerStatus, PlanStatus, SiteStatus

LONGEST = 80


def site_words(status: SiteStatus, plans: Sequence[PlanStatus], ledger: LedgerStatus) -> str:
    """Say where a site stands, with its plans and what it has spent."""
    since = datetime.fromtimestamp(status.since_ms / 1000, tz=UTC).strftime("%Y-%m-%d %H:%MZ")
    link = "connected to" if status.connected else "NOT connected to"
    lines = [
        f"{plain(status.site)} of {plain(status.consortium)}: {status.state} since {since}, version {status.version}",
        f"{link} {plain(status.coordinator)}",
        f"charter {status.charter.version} ({status.charter.sha256[:12] or 'none yet'})",
        *check_lines(status.checks),
        *(_plan_line(plan) for plan in plans if plan.standing is not None or plan.decision == "pending"),
        *(_holding_line(ledger, number) for number in range(len(ledger.holdings))),
    ]
    if status.plans_pending:
        lines.append(f"{status.plans_pending} plans wait for you: `partsong site plans`")
    if status.capsules:
        lines.append(f"last failure: capsule {status.capsules[0]}")
    return "\n".join(lines)


def check_lines(checks: Sequence[Check]) -> list[str]:
    """Say whether a daemon is ready, and if not, why."""
    unmet = [f"  {check.name}: {plain(check.reason, most=300)}" for check in checks if not check.ok]
    return ["NOT ready:", *unmet] if unmet else ["ready"]


def plain(text: str, *, most: int = LONGEST) -> str:
    """Give a text that somebody else may have written so that it cannot move the cursor or hide a part of a line."""
    shown = "".join(c if unicodedata.category(c)[0] not in "CZ" or c == " " else "?" for c in text)
    return shown if len(shown) <= most else f"{shown[: most - 3]}..."


def _plan_line(plan: PlanStatus) -> str:
    at = plan.standing
    stands = "" if at is None else f", round {at.round} of {at.rounds}{f' ({plain(at.phase)})' if at.phase else ''}"
    return f"plan {plan.plan[:12]} {plain(plan.run)}: {plan.decision} by {plan.by}{stands}"


def _holding_line(ledger: LedgerStatus, number: int) -> str:
    holding = ledger.holdings[number]
    most = "" if holding.ceiling is None else f" of {holding.ceiling:.3g}"
    return (
        f"{plain(holding.name)}: epsilon {holding.epsilon:.3g}{most} at delta {holding.delta:g}, "
        f"{holding.queries} queries"
    )
