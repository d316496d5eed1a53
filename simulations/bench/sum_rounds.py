"""The CPU time of one site and of the coordinator in a whole round of the secure sum, phase by phase."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from partsong.client.secure_sum import SecureSumSite
from partsong.common.fixed_point import Block, Encoding, encode
from partsong.server.secure_sum import SumRound
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
    made, costs = deal_keys(found(names(sites)), run=bytes(32)), Costs()
    encoding = encoding_of(parameters, field_bits=21, sites=sites)
    update = np.random.default_rng(0).standard_normal(parameters).astype(np.float32)
    measured = made.run.holders(range(sites)).sites[0]
    silent = silent_sites(sites=sites, dropped=dropped, measured=measured)
    for _ in range(repeats):
        _play(made, costs, encoding=encoding, update=update, measured=measured, silent=silent)
    return costs


def _play(
    made: Federation,
    costs: Costs,
    *,
    encoding: Encoding,
    update: npt.NDArray[np.float32],
    measured: int,
    silent: set[int],
) -> None:
    header = next_header(made, words=encoding.words())
    made.rounds += 1
    desk = SumRound(run=made.run, signer=made.consortium.coordinator, header=header)
    sites = made.sites

    def everyone(phase: str, numbers: Sequence[int], work: Callable[[int, SecureSumSite], bytes]) -> list[bytes]:
        """Let some sites do a phase; one of them under the clock."""
        return [
            clocked(costs.site, phase, lambda: work(measured, sites[measured])) if i == measured else work(i, sites[i])
            for i in numbers
        ]

    def take(phase: str, add: Callable[[bytes], int], messages: Sequence[bytes], close: Callable[[], T]) -> T:
        return clocked(costs.coordinator, phase, lambda: ([add(message) for message in messages], close())[1])

    opening = desk.open(result=b"")

    def open_and_ready(_number: int, site: SecureSumSite) -> bytes:
        site.open(opening)
        return site.ready(verdict=True)

    roster = take("ready", desk.add_ready, everyone("ready", list(sites), open_and_ready), desk.close_roster)
    everyone("enter", list(sites), lambda _, site: site.enter(roster).context)
    seed, rng = desk.rotation_seed, np.random.default_rng(0)
    words = clocked(costs.site, "encode", lambda: encode({"update": update}, encoding, rotation_seed=seed, rng=rng))
    reporting = [i for i in sites if i not in silent]
    reports = everyone("report", reporting, lambda _, site: site.report(words))
    requests = take("report", desk.add_report, reports, desk.close_reports)
    confirms = everyone("confirm", desk.survivors, lambda i, site: site.confirm(requests[i]))
    quorum = take("confirm", desk.add_confirm, confirms, desk.close_confirms)
    answers = everyone("unmask", desk.holders, lambda _, site: site.unmask(quorum))
    take("unmask", desk.add_unmask, answers, desk.open_sum)
