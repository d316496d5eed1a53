"""Puts a site's daemon together on its directory.

Covers: one daemon at a time works on a directory; a ledger that is gone is not begun anew once plans were answered
from it.
Does not cover: unlocking the directory (`partsong.client.onboarding`) and the connection.
"""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Callable, Iterator
from pathlib import Path

from partsong.client.budget.ledger import Ledger
from partsong.client.daemon import OpenedSite, SiteDaemon, policy_under
from partsong.client.encoders.resident import ResidentModel
from partsong.client.home import SiteHome
from partsong.client.plan_folder import all_plans
from partsong.client.work import Workshop
from partsong.common.control.feed import Feed
from partsong.common.errors import Refused, TryAgain
from partsong.common.files import make_folder
from partsong.common.keys import fingerprint


@contextlib.contextmanager
def held(file: Path) -> Iterator[None]:
    """Hold a site's directory for the time of a block.

    Raises:
        TryAgain: another process holds it.
    """
    make_folder(file.parent)
    with file.open("a+b") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as err:
            raise TryAgain(f"{file.parent}: a daemon works on this directory; stop it first") from err
        yield


@contextlib.contextmanager
def at_work(home: SiteHome, site: OpenedSite, *, feed: Feed, clock: Callable[[], float]) -> Iterator[SiteDaemon]:
    """Give a daemon that answers messages, for the time of a block.

    Args:
        home: the site's directory.
        site: what was unlocked of it.
        feed: told what happens.
        clock: seconds since 1970.
    Raises:
        TryAgain: a daemon works on this directory already.
        Refused: `ledger_missing`, or as `SiteDaemon`.
        ConfigError: the configuration names no records.
    """
    with held(home.lock), contextlib.closing(_ledger(home, clock)) as ledger:
        works = Workshop(
            site.config,
            rules=policy_under(site.policy, site.charter).rules,
            ledger=ledger,
            coordinator=fingerprint(site.charter.coordinator_key),
            resident=ResidentModel(site.config.model),
        )
        yield SiteDaemon(home=home, site=site, ledger=ledger, works=works, feed=feed, clock=clock)


def _ledger(home: SiteHome, clock: Callable[[], float]) -> Ledger:
    if not home.ledger.exists() and any(all_plans(home.plans)):
        raise Refused(
            "ledger_missing",
            reason="plans were answered here, and what they have spent is not known",
            remedy="put the ledger back; an empty one would allow everything a second time",
        )
    return Ledger(home.ledger, clock=clock)
