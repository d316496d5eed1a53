"""A site that is killed, or whose disk fails, costs a round at most, and never a secret."""

import contextlib
from collections.abc import Callable

import numpy as np
import pytest

from partsong.client.secure_sum.protocol import SecureSumSite
from partsong.client.secure_sum.site_state import Stage
from partsong.client.secure_sum.vault import MemoryVault
from partsong.common.errors import Refused
from partsong.common.thresholds import Floors
from partsong.server.secure_sum.protocol import SumRound
from partsong.simulations.secure_sum import (
    Federation,
    found,
    next_header,
    set_up,
    wake,
)

WORDS = 20


def federation(sites: int, *, floors: Floors | None = None, run: bytes = bytes(32)) -> Federation:
    return set_up(found([f"site{i:02}" for i in range(sites)], floors=floors), run=run)


def vector(site: int, round_number: int) -> np.ndarray:
    """Words with all bits in use, small enough that sixteen sites do not wrap."""
    return np.random.default_rng([site, round_number]).integers(0, 2**60, WORDS, dtype=np.uint64)


class Crash(Exception):
    """The process is gone."""


class FailingVault(MemoryVault):
    """Counts writes and dies at one of them, before or after it took effect."""

    def __init__(self) -> None:
        super().__init__()
        self.writes = 0
        self.dies_at, self.after = -1, False

    def write(self, name: str, data: bytes) -> None:
        self.writes += 1
        if self.writes == self.dies_at and not self.after:
            raise Crash
        super().write(name, data)
        if self.writes == self.dies_at:
            raise Crash


class Restarting:
    """A site whose process is started again when it dies; the coordinator then repeats its message."""

    def __init__(self, made: Federation, site: int, vault: FailingVault) -> None:
        self._made, self._site, self._vault = made, site, vault
        self.reports: list[bytes] = []

    def __getattr__(self, name: str) -> Callable[..., object]:
        def call(*args: object, **kwargs: object) -> object:
            process = self._made.sites[self._site]
            try:
                answer = getattr(process, name)(*args, **kwargs)
            except Crash:
                self._made.sites[self._site] = process = wake(self._made.consortium, self._site)
                answer = getattr(process, name)(*args, **kwargs)
            return answer

        return call


@pytest.mark.parametrize("after", ["before", "after"])
def test_a_crash_at_any_write_loses_at_most_the_site_and_never_a_secret(after: str) -> None:
    """At each write of a round: the sum stays exact, with the site or without it, and no report is made twice."""
    outcomes = []
    for dies_at in range(1, 11):
        made = federation(5)
        vault = FailingVault()
        vault._records = dict(made.consortium.vaults[2]._records)
        vaults = tuple(vault if i == 2 else v for i, v in enumerate(made.consortium.vaults))
        object.__setattr__(made.consortium, "vaults", vaults)
        made.sites[2] = wake(made.consortium, 2)
        vault.dies_at, vault.after = dies_at, after == "after"

        survivors, total, reports = round_with_restarts(made, Restarting(made, 2, vault))

        assert (total == sum(vector(i, 1) for i in survivors)).all()
        assert len(set(reports)) <= 1
        outcomes.append((vault.writes >= dies_at, 2 in survivors))
    # Nine writes. Lost is the site only between "the context is used" (4) and "the report is whole" (5).
    lost = 4 if after == "after" else 5
    assert outcomes == [(True, dies_at != lost) for dies_at in range(1, 10)] + [(False, True)]


def round_with_restarts(made: Federation, unlucky: Restarting) -> tuple[list[int], np.ndarray, list[bytes]]:
    """One round in which every message to the unlucky site is sent twice."""
    sites: dict[int, SecureSumSite | Restarting] = dict(made.sites) | {2: unlucky}
    desk = SumRound(run=made.run, signer=made.consortium.coordinator, header=next_header(made, words=WORDS))
    reports = []
    for site in sites.values():
        site.open(desk.open(result=b""))
        site.open(desk.open(result=b""))
        desk.add_ready(site.ready(verdict=True))
    roster = desk.close_roster()
    for number, site in sites.items():
        site.enter(roster)
        try:
            first = site.report(vector(number, 1))
        except Refused:
            # Dropped out between masking and journal.
            continue
        reports += [first, site.report(vector(number + 1, 9))] if number == 2 else []
        desk.add_report(first)
    requests = desk.close_reports()
    for number in desk.survivors:
        desk.add_confirm(sites[number].confirm(requests[number]))
        desk.add_confirm(sites[number].confirm(requests[number]))
    quorum_of = desk.close_confirms()
    for number in desk.survivors:
        desk.add_unmask(sites[number].unmask(quorum_of))
        desk.add_unmask(sites[number].unmask(quorum_of))
    _, opened = desk.open_sum()
    return list(opened.sites), opened.words, reports


class StickyVault(FailingVault):
    """Dies before it can erase."""

    def erase(self, name: str) -> None:
        raise Crash


def test_a_report_of_an_earlier_round_is_not_sent_for_a_later_one() -> None:
    """A crash left the old report in the journal, another came between masking and the new one: nothing is sent."""
    made = federation(3)
    vault = StickyVault()
    vault._records = dict(made.consortium.vaults[0]._records)
    object.__setattr__(made.consortium, "vaults", (vault, *made.consortium.vaults[1:]))
    for number in (1, 2):
        made.sites[0] = wake(made.consortium, 0)
        desk = SumRound(run=made.run, signer=made.consortium.coordinator, header=next_header(made, words=WORDS))
        made.rounds += 1
        with contextlib.suppress(Crash):
            made.sites[0].open(desk.open(result=b""))
        made.sites[0] = wake(made.consortium, 0)
        for other in (1, 2):
            made.sites[other].open(desk.open(result=b""))
        for site in made.sites.values():
            desk.add_ready(site.ready(verdict=True))
        made.sites[0].enter(desk.close_roster())
        vault.dies_at = vault.writes + 2 if number == 2 else -1
        with contextlib.suppress(Crash):
            made.sites[0].report(vector(0, number))

    again = wake(made.consortium, 0)

    assert again.stage == Stage.MASKING
    assert vault.read("report") is not None
    with pytest.raises(Refused, match="unfinished_report"):
        again.report(vector(0, 2))


def test_a_lost_record_ends_the_round_for_the_site() -> None:
    """Someone deleted the journal: the site drops out by name."""
    made = federation(3)
    desk = SumRound(run=made.run, signer=made.consortium.coordinator, header=next_header(made, words=WORDS))
    for site in made.sites.values():
        site.open(desk.open(result=b""))
        desk.add_ready(site.ready(verdict=True))
    roster = desk.close_roster()
    for number, site in made.sites.items():
        site.enter(roster)
        desk.add_report(site.report(vector(number, 1)))
    made.consortium.vaults[0].erase("report")

    with pytest.raises(Refused, match="lost_record"):
        made.sites[0].report(vector(0, 1))


def test_a_failed_masking_uses_the_context_up() -> None:
    """If anything goes wrong while masking, the vector is not masked again, now or after a restart."""
    made = federation(3)
    desk = SumRound(run=made.run, signer=made.consortium.coordinator, header=next_header(made, words=WORDS))
    for site in made.sites.values():
        site.open(desk.open(result=b""))
        desk.add_ready(site.ready(verdict=True))
    roster = desk.close_roster()

    def broken(size: int) -> bytes:
        raise Crash

    unlucky = wake(made.consortium, 0, entropy=broken)
    unlucky.enter(roster)
    with pytest.raises(Crash):
        unlucky.report(vector(0, 1))

    for process in (unlucky, wake(made.consortium, 0)):
        assert process.stage == Stage.MASKING
        with pytest.raises(Refused, match="unfinished_report"):
            process.report(vector(0, 1))
