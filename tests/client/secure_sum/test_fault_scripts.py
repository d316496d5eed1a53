"""Scripts of faults at random: silent sites, dead processes, repeated, reordered, cut and wrong messages, two rounds each.

Whatever the script: the exact integer sum over the confirmed survivors, or an end without one; never another error.
"""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np
import pytest

from partsong.client.secure_sum.vault import MemoryVault
from partsong.common.codec import pack, unpack
from partsong.common.errors import Refused, RoundAborted, WireError
from partsong.common.secure_sum import committee
from partsong.common.secure_sum.messages import Header, Signed, Unmask, sign
from partsong.common.secure_sum.result import OpenedSum, sum_fits
from partsong.common.thresholds import Floors
from partsong.server.secure_sum import protocol as desk_module
from partsong.server.secure_sum.protocol import SumRound
from partsong.simulations.secure_sum import deal_keys, found, next_header, wake

WORDS = 6
PHASES = ("ready", "report", "confirm", "unmask")

T = TypeVar("T")


class Crash(Exception):
    """The process is gone."""


class CrashingVault(MemoryVault):
    """Dies at one of the next writes, before or after it took effect."""

    def __init__(self) -> None:
        super().__init__()
        self.dies_in, self.after = 0, False

    def write(self, name: str, data: bytes) -> None:
        self.dies_in -= 1
        if self.dies_in == 0 and not self.after:
            raise Crash
        super().write(name, data)
        if self.dies_in == 0:
            raise Crash


@dataclass(kw_only=True)
class Tally:
    """What became of the rounds of many scripts."""

    sums: int = 0
    ends: int = 0
    crashes: int = 0
    lies: int = 0
    whole: int = 0
    """Rounds that lost nobody, and had to give a sum."""
    reasons: set[str] = field(default_factory=set)


class Script:
    """One federation and everything that goes wrong in it, decided by one seed."""

    def __init__(self, seed: int, tally: Tally) -> None:
        self.rng, self.tally = np.random.default_rng(seed), tally
        self.trouble = float(self.rng.choice([0.0, 0.02, 0.1, 0.25]))
        sites = int(self.rng.integers(3, 11))
        corrupt = int(self.rng.integers(0, (sites - 1) // 3 + 1))
        floors = Floors(
            minimum_cohort=int(self.rng.integers(3, max(4, sites // 2 + 2))),
            minimum_honest=min(2 + int(self.rng.integers(0, 2)), sites - corrupt),
            corrupt_tolerance=corrupt,
        )
        consortium = found([f"site{i:02}" for i in range(sites)], floors=floors)
        self.consortium = replace(consortium, vaults=tuple(CrashingVault() for _ in range(sites)))
        self.made = deal_keys(self.consortium, run=self.rng.bytes(32))
        self.group_key = self.made.sites[0]._state.group_key

    def chance(self, of: float) -> bool:
        return bool(self.rng.random() < of)

    def shuffled(self, sites: list[int] | tuple[int, ...]) -> list[int]:
        return [int(site) for site in self.rng.permutation(sites)]

    def asked(self, site: int, name: str, *args: object, **kwargs: object) -> object:
        """Ask a site; it may die at a write, is started again and asked again, and gives the same answer twice."""
        vault, answer = self.consortium.vaults[site], None
        if self.chance(self.trouble):
            vault.dies_in, vault.after = int(self.rng.integers(1, 4)), self.chance(0.5)
        try:
            answer = getattr(self.made.sites[site], name)(*args, **kwargs)
        except Crash:
            self.tally.crashes += 1
            self.made.sites[site] = wake(self.consortium, site)
            answer = getattr(self.made.sites[site], name)(*args, **kwargs)
        vault.dies_in = 0
        if self.chance(self.trouble):
            self.made.sites[site] = wake(self.consortium, site)
        if self.chance(self.trouble):
            again = getattr(self.made.sites[site], name)(*args, **kwargs)
            assert name == "open" or again == answer
        return answer

    def delivered(self, add: Callable[[bytes], int], message: bytes) -> None:
        """Deliver a message, perhaps after a part of it, perhaps twice."""
        if self.chance(self.trouble):
            with pytest.raises(WireError):
                add(message[: int(self.rng.integers(0, len(message)))])
        add(message)
        if self.chance(self.trouble):
            add(message)

    def closed(self, desk: SumRound, close: Callable[[], T], late: list[tuple[Callable[[bytes], int], bytes]]) -> T:
        """End a phase; what comes too late or again changes nothing."""
        made = close()
        if late and self.chance(self.trouble):
            add, message = late[int(self.rng.integers(len(late)))]
            before = (desk.roster, desk.survivors)
            with contextlib.suppress(WireError):
                add(message)
            assert (desk.roster, desk.survivors) == before
        return made

    def round(self, number: int) -> None:
        """Play one round to its end."""
        drop = {site: str(self.rng.choice(PHASES)) for site in self.made.sites if self.chance(self.trouble)}
        self.lost = bool(drop)
        vectors = {i: self.rng.integers(0, 2**60, WORDS, dtype=np.uint64) for i in self.made.sites}
        header = next_header(self.made, words=WORDS)
        self.made.rounds = header.round
        try:
            result, opened = self.opened(header, vectors, drop)
        except (Refused, RoundAborted) as err:
            reason, opened = getattr(err, "rule", type(err).__name__), None
        if opened is None:
            assert self.lost or self.told_lies, f"round {number} lost nobody and ended: {reason}"
            self.tally.ends += 1
            self.tally.reasons.add(reason)
            return
        exact = (opened.words == sum(vectors[i] for i in opened.sites)).all()
        assert exact
        assert sum_fits(opened, group_key=self.group_key)
        self.tally.sums += 1
        self.tally.whole += not self.lost
        self.made.result, self.made.last = result, opened

    def opened(self, header: Header, vectors: dict[int, np.ndarray], drop: dict[int, str]) -> tuple[bytes, OpenedSum]:
        self.told_lies = False
        desk = SumRound(run=self.made.run, signer=self.consortium.coordinator, header=header)
        sent: list[tuple[Callable[[bytes], int], bytes]] = []

        def phase(name: str, sites: list[int] | tuple[int, ...], ask: Callable[[int], object], add: Callable) -> None:
            for site in self.shuffled(sites):
                if drop.get(site, "never") in PHASES[: PHASES.index(name) + 1]:
                    continue
                try:
                    answer = ask(site)
                except (Refused, RoundAborted):
                    # Masking died, or an earlier message never arrived: out of this round.
                    self.lost = True
                    continue
                message = self.perhaps_a_lie(answer, site) if name == "unmask" else answer
                self.delivered(add, message)
                sent.append((add, message))

        opening = desk.open(result=self.made.result)

        def make_ready(site: int) -> object:
            self.asked(site, "open", opening)
            return self.asked(site, "ready", verdict=True)

        phase("ready", list(self.made.sites), make_ready, desk.add_ready)
        roster = self.closed(desk, desk.close_roster, sent)

        def make_report(site: int) -> object:
            self.asked(site, "enter", roster)
            return self.asked(site, "report", vectors[site])

        phase("report", desk.roster, make_report, desk.add_report)
        requests = self.closed(desk, desk.close_reports, sent)
        phase("confirm", desk.survivors, lambda site: self.asked(site, "confirm", requests[site]), desk.add_confirm)
        quorum = self.closed(desk, desk.close_confirms, sent)
        phase("unmask", desk.holders, lambda site: self.asked(site, "unmask", quorum), desk.add_unmask)
        opened = desk.open_sum()
        assert set(desk.liars) <= set(range(self.consortium.charter.corrupt_tolerance))
        assert self.told_lies or not desk.disputed
        return opened

    def perhaps_a_lie(self, answer: bytes, site: int) -> bytes:
        """The first sites are the corrupt ones; they change a share now and then, and sign it."""
        if site >= self.consortium.charter.corrupt_tolerance or not self.chance(self.trouble):
            return answer
        unmask = unpack(Unmask, unpack(Signed, answer).body)
        share = bytearray(unmask.shares[0])
        share[int(self.rng.integers(len(share)))] ^= 1
        self.told_lies = True
        self.tally.lies += 1
        changed = replace(unmask, shares=(bytes(share), *unmask.shares[1:]))
        return pack(sign(changed, self.consortium.identities[site]))


def play(seeds: range) -> Tally:
    """Play scripts; every third one with a committee in runs of five sites and more."""
    tally = Tally()
    for seed in seeds:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(committee, "ALL_HOLD_UP_TO", 4 if seed % 3 == 0 else 64)
            script = Script(seed, tally)
            for number in (1, 2):
                script.round(number)
    return tally


def test_forty_scripts_give_exact_sums_or_end_without_one() -> None:
    """And both happen, for several reasons, with crashes and lies among them."""
    tally = play(range(40))

    assert tally.sums > 20
    assert tally.ends > 5
    assert tally.whole > 10
    assert tally.crashes > 5
    assert tally.lies > 0
    assert len(tally.reasons) >= 3


def test_a_coordinator_that_adds_wrong_is_found_by_the_scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: one word too many in every addition."""
    monkeypatch.setattr(desk_module, "add_into", lambda total, words: np.add(total, words + np.uint64(1), out=total))

    with pytest.raises(AssertionError):
        play(range(2))


@pytest.mark.nightly
@pytest.mark.parametrize("part", range(20))
def test_twenty_thousand_scripts_give_exact_sums_or_end_without_one(part: int) -> None:
    """A thousand in each part."""
    tally = play(range(1000 * (part + 1), 1000 * (part + 2)))

    assert tally.sums + tally.ends == 2000
    assert min(tally.sums, tally.ends) > 100
