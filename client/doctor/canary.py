"""The newest canary that this site took part in: a site asks for no runs, so it reports."""

from __future__ import annotations

from pathlib import Path

from partsong.client.daemon.plan_folder import all_plans
from partsong.common.canary import STUDY
from partsong.common.doctor.canary import LastCanary


def last_canary(plans: Path) -> LastCanary | None:
    """Find how the newest canary of a site ended: the site has checked its sum, or has not heard of an end.

    Args:
        plans: of the site's directory.
    Raises:
        DataError: what is kept of a plan is damaged.
    """
    found = [life for folder in all_plans(plans) if (life := folder.life()) is not None and life.study == STUDY]
    newest = max(found, key=lambda life: life.accepted_ms, default=None)
    if newest is None:
        return None
    return LastCanary(run=newest.run, state="open" if newest.ended_ms is None else "right", at_ms=newest.accepted_ms)
