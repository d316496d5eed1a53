"""What the coordinator hears of a failure: that there was one and, where the site allows it, a scrubbed cause.

Covers: without `release_capsules` nothing leaves but that the site failed; with it, a failure capsule and no more:
types of errors, places in this package, versions, a remedy of a closed list. A refusal by the site's rules is no
failure: its rule never leaves.
Does not cover: that something failed, and when. Every coordinator sees that.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from partsong.client.daemon.failure_book import FailureBook
from partsong.client.daemon.plan_folder import PlanFolder
from partsong.client.secure_sum.door import Answer
from partsong.common import wire
from partsong.common.capsule import release
from partsong.common.deployment import SiteConfig
from partsong.common.errors import PartsongError

Answering = Callable[..., Answer]
"""Such as `SiteDaemon.answer`."""


def releasing(answer: Answering, *, config: SiteConfig, failures: FailureBook, plans: Path) -> Answering:
    """Let failures go out as capsules, if the site's settings say so.

    Args:
        answer: that may fail.
        config: of the site.
        failures: where each is kept first.
        plans: folder of the site's plans, for the name of the run.
    """
    if not config.release_capsules:
        return answer

    def or_capsule(header: bytes, *, vector: bytes = b"", note: bytes = b"") -> Answer:
        try:
            return answer(header, vector=vector, note=note)
        except Exception as err:  # noqa: BLE001 - whatever fails is told by its type alone
            run, number = _place(header, plans)
            capsule = failures.enter(err, phase="answer", run=run, round_id=number)
            said = wire.encode(wire.Refuse(site=config.name, code="state"))
            return Answer(header=said, note=release(capsule, config=config) or b"")

    return or_capsule


def _place(header: bytes, plans: Path) -> tuple[str, int]:
    """Name the run and round that a message is about; nothing and 0 where it is of none."""
    try:
        kind = wire.kind_of(header)
        if kind == wire.Propose.kind:
            return wire.decode(header, wire.Propose).plan.run, 0
        if kind == wire.Open.kind:
            query = wire.decode(header, wire.Open)
            return _run(plans, query.plan_sha256), query.round
        if kind == wire.Roster.kind:
            roster = wire.decode(header, wire.Roster)
            return _run(plans, roster.plan_sha256), roster.round
    except PartsongError:
        pass
    return "", 0


def _run(plans: Path, plan_sha256: str) -> str:
    life = PlanFolder(plans, plan_sha256).life()
    return "" if life is None else life.run
