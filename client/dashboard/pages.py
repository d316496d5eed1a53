"""The pages of a site's dashboard, and the few things that can be done on them: decide about a plan, pause, resume.

Covers: a plan is approved from the page that shows it, by the hash of all of it, after a person has said that it was
    read; a rule of the policy stands, whatever is clicked.
Does not cover: who sits at the keyboard.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from partsong.client.adapters.store import AdapterStore
from partsong.client.budget.ledger import Ledger
from partsong.client.dashboard import facts
from partsong.client.home.layout import SiteHome
from partsong.client.link.outbox import sent_lately
from partsong.client.rules.approval import Approvals, Decision
from partsong.common.control.surfaces import SiteControl
from partsong.common.dashboard.pages import Answer, Asked, Dashboard, Moved, NotThere, Sent, Shown, View
from partsong.common.errors import DataError, InputError

LONGEST_REASON = 500
_HASH = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Sources:
    """What the pages are made of."""

    control: SiteControl
    approvals: Approvals
    ledger: Ledger
    home: SiteHome
    release_capsules: bool
    """Of the site's settings."""


def board_of(sources: Sources, *, site: str) -> Dashboard:
    """Make a site's dashboard.

    Args:
        sources: of the running daemon.
        site: its name.
    """
    pages = _Pages(sources)
    return Dashboard(
        who=site,
        side="site",
        links=(
            ("", "Now"),
            ("plans", "Plans"),
            ("ledger", "Ledger"),
            ("left", "What left this site"),
            ("adapters", "Adapters"),
        ),
        views=(
            View(path="", answer=pages.now),
            View(path="pause", answer=pages.pause, method="POST"),
            View(path="resume", answer=pages.resume, method="POST"),
            View(path="plans", answer=pages.plans),
            View(path="plans/{plan}", answer=pages.plan),
            View(path="plans/{plan}/approve", answer=pages.approve, method="POST"),
            View(path="plans/{plan}/refuse", answer=pages.refuse, method="POST"),
            View(path="ledger", answer=pages.ledger),
            View(path="left", answer=pages.left),
            View(path="adapters", answer=pages.adapters),
            View(path="adapters/{plan}/{file}", answer=pages.adapter),
        ),
        templates=(Path(__file__).parent / "templates",),
        feed=sources.control.feed,
    )


class _Pages:
    """Answers from the daemon and the site's directory."""

    def __init__(self, sources: Sources) -> None:
        self._control, self._from = sources.control, sources

    def now(self, _asked: Asked) -> Answer:
        """How the daemon stands, what waits for a person, what is under way, what was spent."""
        plans = self._control.plans()
        return Shown(
            template="now.html.j2",
            title="Now",
            values={
                "status": self._control.status(),
                "waiting": [plan for plan in plans if plan.decision == "pending"],
                "at_work": [plan for plan in plans if plan.decision == "approved" and plan.standing is not None],
                "holdings": facts.holdings_of(self._from.ledger),
            },
        )

    def pause(self, _asked: Asked) -> Answer:
        """Take no new query."""
        self._control.pause()
        return Moved(to="")

    def resume(self, _asked: Asked) -> Answer:
        """Take queries again."""
        self._control.resume()
        return Moved(to="")

    def plans(self, _asked: Asked) -> Answer:
        """Every plan that was proposed, those that wait first."""
        newest_first = self._control.plans()[::-1]
        found = sorted(newest_first, key=lambda plan: plan.decision != "pending")
        return Shown(template="plans.html.j2", title="Plans", values={"plans": found})

    def plan(self, asked: Asked) -> Answer:
        """One plan, in words and in what is different about it."""
        found = facts.plan_of(self._from.approvals, self._decision(asked))
        title = f"Plan {found.decision.plan_sha256[:12]}"
        return Shown(template="plan.html.j2", title=title, values={"plan": found, "longest": LONGEST_REASON})

    def approve(self, asked: Asked) -> Answer:
        """Accept a plan that was read."""
        decision = self._decision(asked)
        if asked.form.get("read") != "yes":
            raise InputError("approval", found="no word that the differences were read", expected="the box ticked")
        self._control.approve(decision.plan_sha256)
        return Moved(to=f"plans/{decision.plan_sha256}")

    def refuse(self, asked: Asked) -> Answer:
        """Refuse a plan, or take an approval back."""
        decision, reason = self._decision(asked), asked.form.get("reason", "").strip()
        if len(reason) > LONGEST_REASON:
            raise InputError("reason", found=f"{len(reason)} characters", expected=f"at most {LONGEST_REASON}")
        self._control.refuse(decision.plan_sha256, reason=reason)
        return Moved(to=f"plans/{decision.plan_sha256}")

    def ledger(self, _asked: Asked) -> Answer:
        """Budgets and the newest entries."""
        ledger = self._from.ledger
        return Shown(
            template="ledger.html.j2",
            title="Ledger",
            values={
                "status": self._control.ledger(),
                "holdings": facts.holdings_of(ledger),
                "entries": facts.newest_entries(ledger.entries()),
                "head": facts.ENTRY_HEAD,
            },
        )

    def left(self, _asked: Asked) -> Answer:
        """What was sent, in bytes and kinds."""
        return Shown(
            template="left.html.j2",
            title="What left this site",
            values={
                "days": facts.departures_by_day(sent_lately(self._from.home.outbox)),
                "day_head": facts.LEFT_HEAD,
                "plans": facts.vectors_by_plan(self._from.approvals, self._from.home),
                "plan_head": facts.PLAN_HEAD,
                "release_capsules": self._from.release_capsules,
            },
        )

    def adapters(self, _asked: Asked) -> Answer:
        """The finished adapters."""
        store = AdapterStore(self._from.home.adapters)
        values = {"rows": facts.adapter_rows(store), "head": facts.ADAPTER_HEAD, "adapters": store.all()[::-1]}
        return Shown(template="adapters.html.j2", title="Adapters", values=values)

    def adapter(self, asked: Asked) -> Answer:
        """One file of a stored adapter, to keep, if it is still what was stored."""
        store, name = AdapterStore(self._from.home.adapters), asked.names["file"]
        found = next((one for one in store.all() if one.plan == asked.names["plan"]), None)
        if found is None or name not in found.files:
            raise NotThere("adapter file")
        if name in store.damaged(found):
            raise DataError(name, found="another file than was stored", expected="the one that was checked")
        return Sent(name=name, media_type="application/octet-stream", body=store.path(found) / name)

    def _decision(self, asked: Asked) -> Decision:
        """Find a plan by its whole hash: what is decided here is decided about what was shown."""
        plan = asked.names["plan"]
        found = self._from.approvals.get(plan) if _HASH.fullmatch(plan) else None
        if found is None:
            raise NotThere("plan")
        return found
