"""What leaves a site in a run, kind by kind, and who can read it."""

from __future__ import annotations

from partsong.common.plan import Plan
from partsong.server.report.facts import Leaving

COORDINATOR = "the coordinator"
EVERY_SITE = "the coordinator and every site"


def leaving(plan: Plan, *, simulated: bool) -> tuple[Leaving, ...]:
    """List every kind of thing that a site of this plan sends.

    Args:
        plan: of the run.
        simulated: whether there was no network.
    """
    found = (_ANSWER, *(_MASKED if plan.masked else _PLAIN))
    return found if simulated else (*found, *_DEPLOYED)


_ANSWER = Leaving(
    what="acceptance or refusal",
    when="once, before a record is read",
    holds="the site's name, the plan's digest, or the code of a refusal",
    readable_by=COORDINATOR,
)
_PLAIN = (
    Leaving(
        what="report",
        when="each round that asks the site",
        holds="the encoded update and the loss of one site; after noise, where the plan has any",
        readable_by="whoever runs the coordinator",
    ),
)
_MASKED = (
    Leaving(
        what="keys",
        when="once, in set-up",
        holds="public keys; shares of seeds, each encrypted for one other site",
        readable_by="public keys: every site. A share: the one site that it is for",
    ),
    Leaving(
        what="ready",
        when="each round that asks the site",
        holds="a signature over plan, round, start and earlier sums",
        readable_by=EVERY_SITE,
    ),
    Leaving(
        what="report",
        when="each round that asks the site",
        holds="the masked update and the masked loss; random words without the other sites' masks",
        readable_by="nobody; the coordinator opens the sum of all sites in the round",
    ),
    Leaving(
        what="confirmation",
        when="each round that asks the site",
        holds="a signature over the set of sites in the sum",
        readable_by=EVERY_SITE,
    ),
    Leaving(
        what="shares",
        when="each round that asks the site",
        holds="shares of seeds that open the sum of that set, and of no other",
        readable_by=COORDINATOR,
    ),
    Leaving(
        what="verdict",
        when="once, at the end",
        holds="a signature that the last sum and the adapter are right",
        readable_by="whoever has the run's files",
    ),
)
_DEPLOYED = (
    Leaving(
        what="connection",
        when="while the site is connected",
        holds="the certificate's name, heartbeats, times and sizes of messages",
        readable_by="the coordinator; times and sizes also the network",
    ),
    Leaving(
        what="failure capsule",
        when="only when an operator releases it",
        holds="kind of error, round and remedy; no record, path, update or key",
        readable_by=COORDINATOR,
    ),
)
