"""The CPU time of one site and of the coordinator in a whole round of the secure sum, phase by phase."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from partsong.client.secure_sum.protocol import SecureSumSite
from partsong.common.secure_sum.fixed_point import Block, Encoding, encode
from partsong.server.secure_sum.protocol import SumRound
from partsong.simulations.secure_sum import Federation, deal_keys, found, next_header

T = TypeVar("T")


@dataclass(kw_only=True, slots=True)
class Costs:
    """CPU time by phase [ms], a list entry for each round."""

    site: dict[str, list[float]] = field(default_factory=dict)
    coordinator: dict[str, list[float]] = field(default_factory=dict)

    def of_site(self, *phases: str) -> float:
        """Add the medians of some phases, or of all."""
        return _added(self.site, phases)

    def of_coordinator(self) -> float:
        """Add the medians of all phases."""
        return _added(self.coordinator, ())

    def note(self) -> str:
        """Name every phase with its median."""
        parts = [("site", self.site), ("coordinator", self.coordinator)]
        return ", ".join(
            f"{who} {phase} {statistics.median(ms):.1f} ms" for who, all_ms in parts for phase, ms in all_ms.items()
        )


def _added(times: dict[str, list[float]], phases: Sequence[str]) -> float:
    return sum(statistics.median(times[phase]) for phase in phases or times)


def encoding_of(parameters: int, *, field_bits: int, sites: int) -> Encoding:
    """Describe one rotated update."""
    block = Block(name="update", size=parameters, clip=1.0, norm="l2", rotate=True)
    return Encoding(blocks=(block,), field_bits=field_bits, max_sites=sites)


def cpu_ms(work: Callable[[], object]) -> float:
    """Take the CPU time of one call."""
    start = time.process_time()
    work()
    return 1000 * (time.process_time() - start)


def clocked(times: dict[str, list[float]], phase: str, work: Callable[[], T]) -> T:
    """Do one phase of a round and note its CPU time."""
    start = time.process_time()
    value = work()
    times.setdefault(phase, []).append(1000 * (time.process_time() - start))
    return value


def names(sites: int) -> list[str]:
    """Name sites."""
    return [f"site{i:04}" for i in range(sites)]


def silent_sites(*, sites: int, dropped: int, measured: int) -> set[int]:
    """Choose sites that fall silent, evenly among all but the measured one."""
    others = [i for i in range(sites) if i != measured]
    return set(others[:: sites // dropped][:dropped]) if dropped else set()


def played(*, sites: int, dropped: int, parameters: int, repeats: int) -> Costs:
    """Run rounds in which every site does its part.

    Args:
        sites: of the roster.
        dropped: of them send no REPORT.
        parameters: of one update.
        repeats: rounds.
    Returns:
        the costs of the first share holder and of the coordinator.
    """
    made = deal_keys(found(names(sites)), run=bytes(32))
    encoding = encoding_of(parameters, field_bits=21, sites=sites)
    update = np.random.default_rng(0).standard_normal(parameters).astype(np.float32)
    measured = made.run.holders(range(sites)).sites[0]
    silent = silent_sites(sites=sites, dropped=dropped, measured=measured)
    clock = _Clock(made=made, measured=measured)
    for _ in range(repeats):
        _play(clock, encoding=encoding, update=update, silent=silent)
    return clock.costs


@dataclass(frozen=True, kw_only=True, slots=True)
class _Clock:
    """Runs the phases of rounds, with one site and the coordinator timed."""

    made: Federation
    measured: int
    costs: Costs = field(default_factory=Costs)

    def everyone(self, phase: str, numbers: Iterable[int], work: Callable[[int, SecureSumSite], T]) -> list[T]:
        """Let some sites do a phase."""
        return [self._one(phase, number, work) for number in numbers]

    def _one(self, phase: str, number: int, work: Callable[[int, SecureSumSite], T]) -> T:
        site = self.made.sites[number]
        if number != self.measured:
            return work(number, site)
        return clocked(self.costs.site, phase, lambda: work(number, site))

    def taken(self, phase: str, add: Callable[[bytes], int], messages: Sequence[bytes], close: Callable[[], T]) -> T:
        """Let the coordinator take all messages of a phase and end it."""

        def work() -> T:
            for message in messages:
                add(message)
            return close()

        return clocked(self.costs.coordinator, phase, work)


def _play(clock: _Clock, *, encoding: Encoding, update: npt.NDArray[np.float32], silent: set[int]) -> None:
    made = clock.made
    desk = SumRound(run=made.run, signer=made.consortium.coordinator, header=next_header(made, words=encoding.words()))
    made.rounds += 1
    opening = desk.open(result=b"")

    def open_and_ready(_number: int, site: SecureSumSite) -> bytes:
        site.open(opening)
        return site.ready(verdict=True)

    readys = clock.everyone("ready", made.sites, open_and_ready)
    roster = clock.taken("ready", desk.add_ready, readys, desk.close_roster)
    entered = clock.everyone("enter", made.sites, lambda _, site: site.enter(roster))
    seed, rng = entered[0].context, np.random.default_rng(0)
    words = clocked(
        clock.costs.site, "encode", lambda: encode({"update": update}, encoding, rotation_seed=seed, rng=rng)
    )
    reporting = [number for number in made.sites if number not in silent]
    reports = clock.everyone("report", reporting, lambda _, site: site.report(words))
    requests = clock.taken("report", desk.add_report, reports, desk.close_reports)
    confirms = clock.everyone("confirm", desk.survivors, lambda number, site: site.confirm(requests[number]))
    quorum = clock.taken("confirm", desk.add_confirm, confirms, desk.close_confirms)
    answers = clock.everyone("unmask", desk.holders, lambda _, site: site.unmask(quorum))
    clock.taken("unmask", desk.add_unmask, answers, desk.open_sum)
