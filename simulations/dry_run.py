"""A whole federation without model and records: the real coordinator, sites, doors, ledgers and journals.

What a site answers follows from public values (`partsong.common.canary`), so that every sum can be told right or wrong.
For tests of whole federations under faults, and for measuring what the framework itself costs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from partsong.client.budget.ledger import Ledger
from partsong.client.budget.spending import Purse
from partsong.client.dp.sampler import SystemRandomness
from partsong.client.encoders.canary import CanaryEncoder
from partsong.client.encoders.encoder import Encoder
from partsong.client.rules.agreement import ByRules
from partsong.client.rules.consent import Rules
from partsong.client.secure_sum.door import Door, PlainDoor
from partsong.client.secure_sum.masked_door import MaskedDoor, Membership
from partsong.client.site import Chance, Site
from partsong.common import events
from partsong.common.canary import canary_update
from partsong.common.errors import PartsongError
from partsong.common.plan import Plan
from partsong.common.thresholds import Floors
from partsong.server.run import Result, Run, Terms
from partsong.server.run_files import RunFiles
from partsong.server.secure_sum.masked_sums import Trust
from partsong.simulations.faults.clock import VirtualClock
from partsong.simulations.faults.exchange import CoordinatorKilled, Director, FaultyExchange
from partsong.simulations.faults.script import Script, write_script
from partsong.simulations.local_exchange import LocalExchange
from partsong.simulations.secure_sum import Consortium
from partsong.simulations.shortcuts import shortcuts
from partsong.simulations.site_pool import SitePool

HOLDING = "records"
_NO_RECORDS = "0" * 64
_NOBODY = "0" * 64


@dataclass(frozen=True, kw_only=True, slots=True)
class DryTerms:
    """What a dry run is about."""

    plan: Plan
    """Of study `canary`, masked or not."""
    names: Sequence[str]
    """Of the registered sites."""
    consortium: Consortium | None
    """Everyone's keys; None: the plan is unmasked."""
    script: Script = field(default_factory=Script)
    """Drawn."""
    awake: int = 1_000_000
    """Most sites in memory."""
    sample: int | None = None
    """Sites that are asked in a round; None: all."""
    floors: Floors | None = None
    """For an unmasked plan, those of the secure sum whose place it takes."""
    timeout_s: float = 60.0
    encoder: Callable[[str], Encoder] = lambda name: CanaryEncoder(site=name)


class DryRun:
    """One run in a folder."""

    def __init__(
        self,
        terms: DryTerms,
        folder: Path,
        *,
        clock: VirtualClock | None = None,
        listen: events.Listener = lambda _: None,
        on_site_error: Callable[[str, PartsongError], None] = lambda _s, _e: None,
    ) -> None:
        """Prepare; nothing is sent yet.

        Args:
            terms: plan, sites and faults.
            folder: for the run's files and the sites' disks.
            clock: of the run.
            listen: told what happens.
            on_site_error: told what went wrong at a site, with the site's own words.
        """
        self._terms, self._folder, self._listen = terms, folder, listen
        self._clock = clock or VirtualClock()
        self._chance = Chance(samples=SystemRandomness(), rounding=np.random.default_rng())
        self.sites = SitePool(self._start, awake=terms.awake)
        keys = terms.consortium
        self._exchange = LocalExchange(terms.names, self.sites, on_error=on_site_error)
        self._director = Director(
            terms.script,
            restart=self.sites.restart,
            clock=self._clock,
            signer=None if keys is None else keys.coordinator,
        )

    def run(self) -> Result:
        """Play from the checkpoint or the start to the last round, however often the coordinator is killed.

        Raises:
            RunNotStarted, RoundAborted: as `partsong.server.run.Run.play`.
        """
        with shortcuts():
            if self._terms.script.faults:
                write_script(self._terms.script, self._folder)
            while True:
                try:
                    run = self._coordinator()
                    run.begin()
                    return run.play(FaultyExchange(self._exchange, self._director, site_at=self._exchange.site_at))
                except CoordinatorKilled:
                    continue

    def close(self) -> None:
        """Let go of all files."""
        self.sites.close()

    def ledger_of(self, name: str) -> Path:
        """File of a site's ledger."""
        return self._folder / "sites" / name / "ledger.sqlite"

    def _coordinator(self) -> Run:
        """Start the coordinator's process on its disk."""
        terms, keys = self._terms, self._terms.consortium
        size = terms.plan.layout.size(trained=True)
        about = Terms(
            plan=terms.plan,
            adapter=lambda: (np.zeros(size, np.float32), np.zeros(0, np.float32)),
            trust=None if keys is None else Trust(charter=keys.charter, signer=keys.coordinator),
            report_timeout_s=terms.timeout_s,
            check_window=1,
            sample=terms.sample,
            floors=terms.floors,
        )
        return Run(about, RunFiles(self._folder), listen=self._listen, clock=self._clock)

    def _start(self, name: str) -> tuple[Site, Callable[[], None]]:
        """Start a site's process on its disk."""
        folder = self._folder / "sites" / name
        folder.mkdir(parents=True, exist_ok=True)
        ledger = Ledger(folder / "ledger.sqlite", clock=self._clock)
        if HOLDING not in ledger.holdings():
            ledger.set_ceiling(HOLDING, epsilon=None, delta=1e-6)
        site = Site(
            name=name,
            encoder=self._terms.encoder(name),
            consent=ByRules(Rules(minimum_cohort=1)),
            journal=folder / "journal.jsonl",
            door=self._door(name, folder),
            purse=Purse(
                ledger,
                holding=HOLDING,
                fingerprint=_NO_RECORDS,
                units={"record": 0, "patient": None},
                coordinator=_NOBODY,
            ),
            chance=lambda _plan, _number: self._chance,
        )
        return site, ledger.close

    def _door(self, name: str, folder: Path) -> Door:
        keys = self._terms.consortium
        if keys is None:
            return PlainDoor(name=name, rules=Rules(minimum_cohort=1))
        number = keys.charter.number_of(name)
        membership = Membership(
            charter=keys.charter,
            signer=keys.identities[number],
            vault=keys.vaults[number],
            floors=keys.charter.floors,
        )
        copy = folder / "adapter-copy.safetensors"
        return MaskedDoor(membership, name=name, copy=copy, entropy=os.urandom, clock=self._clock.of(name))


def expected_sum(plan: Plan, *, number: int, sites: Sequence[str]) -> NDArray[np.float64]:
    """Give the sum of what canaries of these sites answer in a round: whole numbers."""
    total_P = np.zeros(plan.layout.size(trained=True))
    for site in sites:
        total_P += canary_update(plan, number=number, site=site)
    return total_P
