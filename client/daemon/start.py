"""Puts a site's daemon together on its directory.

Covers: one daemon at a time works on a directory; a ledger that is gone is not begun anew once plans were answered
from it, and an older one is not spent from.
Does not cover: unlocking the directory (`partsong.client.membership.onboarding`) and the connection.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from partsong.client.budget.ledger import Ledger
from partsong.client.daemon.daemon import SiteDaemon, policy_under
from partsong.client.daemon.plan_folder import all_plans
from partsong.client.daemon.work import Workshop
from partsong.client.encoders.resident import ResidentModel
from partsong.client.home.layout import SiteHome
from partsong.client.home.ledger import open_ledger
from partsong.client.home.lock import held
from partsong.client.home.opened import OpenedSite
from partsong.client.rules.policy import Policy
from partsong.client.secure_sum.vault import Vault
from partsong.client.training.unfinished import UnfinishedWork
from partsong.common.control.feed import Feed
from partsong.common.deployment import SiteConfig
from partsong.common.errors import InputError, Refused
from partsong.common.identity.charter import Charter
from partsong.common.identity.keys import Signer, fingerprint


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class _Parts:
    """A site's directory with a charter that holds."""

    config: SiteConfig
    signer: Signer
    charter: Charter
    policy: Policy
    vault: Vault


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
        InputError: no charter was pinned yet, or the configuration names no records.
    """
    if site.charter is None:
        raise InputError(
            str(home.charters),
            found="no charter",
            expected="one that all sites have signed",
            remedy="`partsong site join CHARTER`, once the coordinator has sent it",
        )
    charter = site.charter.charter
    parts = _Parts(config=site.config, signer=site.signer, charter=charter, policy=site.policy, vault=site.vault)
    with contextlib.ExitStack() as stack:
        stack.enter_context(held(home.lock))
        ledger = stack.enter_context(contextlib.closing(_ledger(home, clock)))
        unfinished = stack.enter_context(contextlib.closing(UnfinishedWork(home.unfinished, vault=site.vault)))
        works = Workshop(
            site.config,
            rules=policy_under(site.policy, charter).rules,
            ledger=ledger,
            coordinator=fingerprint(charter.coordinator_key),
            resident=ResidentModel(site.config.model),
        )
        yield SiteDaemon(
            home=home, site=parts, ledger=ledger, works=works, unfinished=unfinished, feed=feed, clock=clock
        )


def _ledger(home: SiteHome, clock: Callable[[], float]) -> Ledger:
    if not home.ledger.exists() and any(all_plans(home.plans)):
        raise Refused(
            "ledger_missing",
            reason="plans were answered here, and what they have spent is not known",
            remedy="put the ledger back, or `partsong site ledger carry EXPORT`; an empty one would allow everything "
            "a second time",
        )
    return open_ledger(home, clock=clock)
