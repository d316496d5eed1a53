"""Carries out a script of faults between the coordinator and what carries its messages.

The real code on both sides meets them; only the network, the processes and the clocks are the script's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from partsong.common import wire
from partsong.common.identity.keys import Signer
from partsong.server.exchange import Exchange, Parcel
from partsong.server.rounds import Loss
from partsong.simulations.faults.clock import VirtualClock
from partsong.simulations.faults.corruption import corrupted
from partsong.simulations.faults.lies import Liar
from partsong.simulations.faults.script import Fault, Kind, Phase, Script, phase_named

Restart = Callable[[str], None]
"""Ends a site's process and starts it on its disk."""


class CoordinatorKilled(BaseException):
    """Stands for kill -9 of the coordinator: nothing of the product may catch it."""


@dataclass(kw_only=True, slots=True)
class Held:
    """Questions that are still on their way to a site, with the phase that they were asked in."""

    late: list[tuple[Parcel, str]] = field(default_factory=list)
    """Arrive before the next."""
    overtaken: list[tuple[Parcel, str]] = field(default_factory=list)
    """Arrive after the next."""


class Director:
    """What is left of a script, over as many lives of the coordinator as it takes. Each fault happens once."""

    def __init__(self, script: Script, *, restart: Restart, clock: VirtualClock, signer: Signer | None) -> None:
        """Prepare.

        Args:
            script: drawn.
            restart: called for a site that is killed.
            clock: of the run.
            signer: the coordinator's, for lies.
        """
        self.restart, self.clock, self._seed = restart, clock, script.seed
        self.liar = Liar(signer=signer)
        self._left: dict[tuple[str, int, Phase], list[Fault]] = {}
        for fault in script.faults:
            if fault.kind == "skew":
                clock.skew(dict.fromkeys(fault.sites, fault.seconds))
                continue
            key = (fault.sites[0] if fault.sites else "", fault.rounds[0], fault.phases[0])
            self._left.setdefault(key, []).append(fault)
        self.round = 0
        """Of the newest OPEN."""
        self.held: dict[str, Held] = {}

    def kills_coordinator(self, number: int, phase: Phase, *, moment: str) -> bool:
        """Whether the coordinator dies now."""
        faults = self._left.get(("", number, phase), [])
        due = [fault for fault in faults if fault.moment == moment]
        for fault in due:
            faults.remove(fault)
        return bool(due)

    def take(self, site: str, number: int, phase: Phase) -> dict[Kind, Fault]:
        """Give what happens to a question, by kind, and strike it off."""
        return {fault.kind: fault for fault in self._left.pop((site, number, phase), [])}

    def rng(self, site: str, number: int, phase: Phase) -> np.random.Generator:
        """Give randomness that belongs to one question: the same whatever else happens."""
        name = f"partsong fault\0{self._seed}\0{site}\0{number}\0{phase}".encode()
        return np.random.default_rng(int.from_bytes(hashlib.sha256(name).digest()[:8], "big"))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Trip:
    """One question on its way."""

    address: int
    site: str
    parcel: Parcel
    faults: Mapping[Kind, Fault]
    number: int
    phase: Phase

    @property
    def delay_s(self) -> float:
        return self.faults["delay"].seconds if "delay" in self.faults else 0.0

    def moved(self, kind: Kind, moment: str) -> bool:
        fault = self.faults.get(kind)
        return fault is not None and fault.moment == moment


class FaultyExchange:
    """An exchange around another."""

    def __init__(self, inner: Exchange, director: Director, *, site_at: Callable[[int], str]) -> None:
        """Wrap `inner`, whose addresses stand for sites by `site_at`."""
        self._inner, self._director, self._name = inner, director, site_at

    def addresses(self) -> tuple[int, ...]:
        """Every site that can be reached now."""
        return self._inner.addresses()

    def site_at(self, address: int) -> str | None:
        """The site that is connected at this address."""
        return self._inner.site_at(address)

    def ask(
        self, parcels: Mapping[int, Parcel], *, phase: str, timeout_s: float
    ) -> Iterator[tuple[int, Parcel | Loss]]:
        """Send what the script lets through and yield what it lets back."""
        number, named = self._moment(parcels, phase)
        director, clock = self._director, self._director.clock
        if named is None:
            yield from self._inner.ask(parcels, phase=phase, timeout_s=timeout_s)
            return
        if director.kills_coordinator(number, named, moment="before"):
            raise CoordinatorKilled
        start_s, answered, longest_s = clock(), 0, 0.0
        seen: dict[str, Parcel] = {}
        for trip, answer in self._answers(
            [self._trip(address, parcel, number, named) for address, parcel in parcels.items()],
            phase=phase,
            start_s=start_s,
            timeout_s=timeout_s,
        ):
            back = self._back(trip, answer, seen)
            if back is not None:
                answered, longest_s = answered + 1, max(longest_s, trip.delay_s)
                yield trip.address, back
        clock.pass_to(start_s + (timeout_s if answered < len(parcels) else longest_s))
        if director.kills_coordinator(number, named, moment="after"):
            raise CoordinatorKilled

    def _moment(self, parcels: Mapping[int, Parcel], phase: str) -> tuple[int, Phase | None]:
        """Round and phase of a question: what comes before the first OPEN is of round 0."""
        header = next(iter(parcels.values())).header if parcels else b""
        if phase == "open" and header:
            self._director.round = wire.decode(header, wire.Open).round
        if phase == "keys" and header:
            return 0, phase_named(wire.decode(header, wire.Keys).step)
        return (0 if phase == "propose" else self._director.round), phase_named(phase) if header else None

    def _trip(self, address: int, parcel: Parcel, number: int, phase: Phase) -> _Trip:
        site, liar = self._name(address), self._director.liar
        faults = self._director.take(site, number, phase)
        told = liar.lie(faults["lie"].lie, parcel, site=site, phase=phase) if "lie" in faults else parcel
        liar.remember(site, phase, parcel)
        return _Trip(address=address, site=site, parcel=told, faults=faults, number=number, phase=phase)

    def _answers(
        self, trips: list[_Trip], *, phase: str, start_s: float, timeout_s: float
    ) -> Iterator[tuple[_Trip, Parcel | Loss]]:
        """Ask the sites in the order in which their questions arrive; those that nothing happens to, together."""
        smooth = {trip.address: trip for trip in trips if not trip.faults and not self._director.held.get(trip.site)}
        asked = {address: trip.parcel for address, trip in smooth.items()}
        if asked:
            for address, answer in self._inner.ask(asked, phase=phase, timeout_s=timeout_s):
                yield smooth[address], answer
        rough = [trip for trip in trips if trip.address not in smooth]
        for trip in sorted(rough, key=lambda trip: trip.delay_s):
            self._director.clock.pass_to(start_s + min(trip.delay_s, timeout_s))
            held = self._director.held.setdefault(trip.site, Held())
            if trip.delay_s > timeout_s:
                held.late.append((trip.parcel, phase))
            elif "reorder" in trip.faults:
                held.overtaken.append((trip.parcel, phase))
            elif "drop" not in trip.faults:
                back = self._delivered(trip, held, phase=phase, timeout_s=timeout_s)
                if back is not None:
                    yield trip, back

    def _delivered(self, trip: _Trip, held: Held, *, phase: str, timeout_s: float) -> Parcel | Loss | None:
        """Let a site handle a question, with those that are late before it and those that it overtook after it."""
        late, held.late = held.late, []
        for parcel, earlier in late:
            self._one(trip.address, parcel, phase=earlier, timeout_s=timeout_s)
        if trip.moved("kill", "before"):
            self._director.restart(trip.site)
            return None
        answer = self._one(trip.address, trip.parcel, phase=phase, timeout_s=timeout_s)
        if "duplicate" in trip.faults:
            self._one(trip.address, trip.parcel, phase=phase, timeout_s=timeout_s)
        overtaken, held.overtaken = held.overtaken, []
        for parcel, earlier in overtaken:
            self._one(trip.address, parcel, phase=earlier, timeout_s=timeout_s)
        if trip.moved("kill", "after"):
            self._director.restart(trip.site)
            return None
        return answer

    def _one(self, address: int, parcel: Parcel, *, phase: str, timeout_s: float) -> Parcel | Loss | None:
        return next((back for _, back in self._inner.ask({address: parcel}, phase=phase, timeout_s=timeout_s)), None)

    def _back(self, trip: _Trip, answer: Parcel | Loss, seen: dict[str, Parcel]) -> Parcel | Loss | None:
        """Give what of an answer reaches the coordinator."""
        if "lose" in trip.faults:
            return None
        if isinstance(answer, Loss):
            return answer
        if "corrupt" not in trip.faults:
            seen[trip.site] = answer
            return answer
        rng = self._director.rng(trip.site, trip.number, trip.phase)
        other = next(iter(seen.values()), None)
        return corrupted(answer, trip.faults["corrupt"].how, site=trip.site, other=other, rng=rng)
