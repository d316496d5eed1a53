"""Erases what a site no longer needs: old messages, and what is left of plans that ended.

Covers: only files below `inbox/`, `outbox/` and `plans/` of a site's directory are erased, never its ledger, vault,
keys, charters, decisions or adapters, and nothing that a link leads to; a plan that was purged is never taken up again,
so that no query of it is answered twice.
Does not cover: what a medium that moves blocks, such as an SSD, keeps of erased files.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from partsong.client.daemon.plan_folder import PlanFolder, all_plans
from partsong.client.home.layout import SiteHome
from partsong.client.link.outbox import MEMORY_S
from partsong.common.errors import Refused

MS_PER_DAY = 86_400_000
KEEP_DAYS = 30
"""A run may rest over a holiday and then be resumed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Purged:
    """What was erased."""

    plans: tuple[str, ...]
    """By their hashes."""
    messages: int
    """Files of inbox and outbox."""


def purge(
    home: SiteHome,
    *,
    clock: Callable[[], float],
    keep_days: int = KEEP_DAYS,
    also: tuple[str, ...] = (),
) -> Purged:
    """Erase what is older than `keep_days`. The caller holds the directory: no daemon works on it.

    Args:
        home: the site's directory.
        clock: seconds since 1970.
        keep_days: >= 0; plans that ended later than this stay. Messages stay for `MEMORY_S` in any case, because so
            long a question that was answered has to be known.
        also: hashes of plans that are to be purged although they never ended, or ended lately.
    Raises:
        Refused: `purge_link`: one of the folders is a link; nothing was erased.
    """
    now_ms = int(clock() * 1000)
    before_ms = now_ms - keep_days * MS_PER_DAY
    forgotten_ms = min(before_ms, now_ms - MEMORY_S * 1000)
    for folder in (home.inbox, home.outbox, home.plans):
        if folder.is_symlink():
            raise Refused("purge_link", reason=f"{folder.name} is a link", remedy="purge where it leads to yourself")
    messages = sum(_erase_old(folder, before_ms=forgotten_ms) for folder in (home.inbox, home.outbox))
    due = [plan for plan in all_plans(home.plans) if plan.plan_sha256 in also or _has_ended(plan, before_ms=before_ms)]
    plans = tuple(plan.plan_sha256 for plan in due if purge_plan(plan, now_ms=now_ms))
    return Purged(plans=plans, messages=messages)


def _has_ended(plan: PlanFolder, *, before_ms: int) -> bool:
    life = plan.life()
    if life is None or life.purged_ms is not None:
        return life is not None  # what a killed purge has left of it is due at once
    return life.ended_ms is not None and max(life.ended_ms, life.asked_ms) <= before_ms


def purge_plan(plan: PlanFolder, *, now_ms: int) -> bool:
    """Note that a plan is purged, and only then erase the rest: half a purge leaves no plan that could go on.

    Killed in between, the same call finishes.

    Returns:
        whether there was something to erase.
    """
    life = plan.life()
    if life is None:
        return False
    if life.purged_ms is None:
        plan.purged(now_ms=now_ms)
    rest = [path for path in plan.path.iterdir() if path != plan.note]
    for path in rest:
        _erase(path)
    return life.purged_ms is None or bool(rest)


def _erase_old(folder: Path, *, before_ms: int) -> int:
    """Erase the files below a folder that were written before, and count them. Links are erased, not followed."""
    count = 0
    for path in sorted(folder.rglob("*")) if folder.is_dir() else ():
        is_file = path.is_symlink() or not path.is_dir()
        if is_file and path.lstat().st_mtime_ns // 1_000_000 <= before_ms:
            path.unlink()
            count += 1
    return count


def _erase(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
