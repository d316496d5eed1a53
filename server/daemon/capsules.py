"""Failure capsules that sites send along with an answer, kept beside the run for `partsong explain`.

Covers: a capsule is of the site that signed the answer and of this run, has the one closed form, and a site can leave
only so many; to the run itself the answer is a failure as any other.
Does not cover: whether what it says is true.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from partsong.common import wire
from partsong.common.capsule import decode
from partsong.common.capsule_shelf import CapsuleShelf
from partsong.common.errors import TryAgain, WireError
from partsong.common.facts import word
from partsong.server.daemon.deployed_run import DeployedRun
from partsong.server.exchange import Exchange, Parcel
from partsong.server.rounds import Loss

MOST_OF_A_SITE = 10
"""Capsules of one site that are kept of one stretch of a run: a site cannot push the others' out."""


class KeepingCapsules:
    """An exchange that takes capsules off the answers."""

    def __init__(self, exchange: Exchange, run: DeployedRun) -> None:
        """Talk over `exchange`, and keep what comes for `run`."""
        self._exchange, self._run, self._shelf = exchange, run, CapsuleShelf(run.capsules)
        self._kept: Counter[str] = Counter()

    def addresses(self) -> tuple[int, ...]:
        """See `Exchange.addresses`."""
        return self._exchange.addresses()

    def site_at(self, address: int) -> str | None:
        """See `Exchange.site_at`."""
        return self._exchange.site_at(address)

    def ask(
        self, parcels: Mapping[int, Parcel], *, phase: str, timeout_s: float
    ) -> Iterator[tuple[int, Parcel | Loss]]:
        """See `Exchange.ask`; a refusal with a capsule is handed over as the failure that it is."""
        for address, answer in self._exchange.ask(parcels, phase=phase, timeout_s=timeout_s):
            is_failure = isinstance(answer, Parcel) and self._takes(address, answer)
            yield address, (Loss.FAILED if is_failure else answer)

    def _takes(self, address: int, answer: Parcel) -> bool:
        """Keep the capsule of an answer; False: it has none."""
        site = self._exchange.site_at(address)
        try:
            if site is None or not answer.note or wire.kind_of(answer.header) != wire.Refuse.kind:
                return False
            capsule = decode(answer.note)
        except WireError:
            return False
        if (capsule.site, capsule.run) != (word(site), word(self._run.name)):
            return False
        self._kept[site] += 1
        if self._kept[site] <= MOST_OF_A_SITE:
            try:
                self._shelf.keep(capsule)
            except TryAgain:  # the disk is full; the run notices by itself
                return True
        return True
