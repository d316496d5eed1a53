"""Kills the process of one site at every write of a run, and says what its disk then knew.

A program of its own: forking is safe in it, and the packages are imported once. The coordinator and four sites live in
this process, the fifth in a forked one. Prints one JSON object.
"""

import importlib.util
import json
import os
import sys
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from partsong.client.budget.ledger import Ledger
from partsong.client.budget.ledger_export import verify
from partsong.client.secure_sum import site_state
from partsong.client.secure_sum.file_vault import FileVault
from partsong.client.secure_sum.masked_door import Membership
from partsong.client.secure_sum.site_state import Stage
from partsong.common import wire
from partsong.common.adapters.adapter import FloatVec
from partsong.common.errors import Refused
from partsong.common.files import read_lines
from partsong.server.exchange import Parcel
from partsong.server.rounds import Loss


def _beside(name: str, file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


wiring: Any = _beside("wiring", Path(__file__).parents[1] / "wiring.py")
dying_site: Any = _beside("dying_site", Path(__file__).with_name("dying_site.py"))
SITE, ROUNDS, MOST_ROUNDS = dying_site.SITE, dying_site.ROUNDS, dying_site.MOST_ROUNDS
Setting, Remote, Killer, Kill = dying_site.Setting, dying_site.Remote, dying_site.Killer, dying_site.Kill
RESERVED = 7
"""A write of a round at which the cost of its query is reserved, and not yet committed."""


class Crashing(wiring.Wired):
    """A masked federation in which one site is a process of its own that dies once."""

    def __init__(self, setting: Setting, folder: Path, *, kills: Sequence[Kill], order: str, again: bool) -> None:
        """Start it.

        Args:
            setting: model, plan and records.
            folder: of this run.
            kills: of the site's first process, of its second, and so on.
            order: of commit, seal and send.
            again: whether a site that died is sent again, after its restart, what it was sent in that round.
        """
        super().__init__(folder, setting.plan)
        self.setting, self.order, self.again, self.kills = setting, order, again, iter(kills)
        self.disk = folder / SITE
        (self.disk / "vault").mkdir(parents=True)
        self.key = os.urandom(32)
        self.sent: dict[tuple[int, int], set[bytes]] = {}
        """Reports of the site that the coordinator or whoever listens has received, by round and attempt."""
        self.violations: list[str] = []
        self.killed_in: list[str] = []
        self.lately: list[Parcel] = []
        self.remote = self._process()

    def _process(self) -> Remote:
        killer = Killer(self.disk, next(self.kills, dying_site.NEVER))

        def start(line: Connection) -> None:
            killer.arm()
            mine = self.members[SITE]
            member = Membership(charter=mine.charter, signer=mine.signer, vault=self.vault(), floors=mine.floors)
            dying_site.live(*dying_site.wake(self.setting, member, self.disk, order=self.order), line, killer)

        return Remote(start)

    def vault(self) -> FileVault:
        return FileVault(self.disk / "vault", key=self.key, entropy=os.urandom)

    def deliver(self, site: str, parcel: Parcel) -> Parcel | Loss | None:
        if site != SITE:
            return super().deliver(site, parcel)
        kind = wire.kind_of(parcel.header)
        if kind in ("propose", "open"):
            self.lately = [p for p in self.lately if kind == "open" and wire.kind_of(p.header) == "propose"]
        self.lately.append(parcel)
        try:
            return self._heard(parcel)
        except dying_site.Gone:
            return self._restarted(kind)

    def _restarted(self, kind: str) -> Parcel | Loss | None:
        """Look at the disk, start the process again, and answer as it does now; None for silence."""
        while True:
            self.killed_in.append(kind)
            if not os.WIFSIGNALED(self.remote.end()):
                self.violations.append(f"the process failed in {kind}")
            self.look()
            self.remote = self._process()
            try:
                answers = [self._heard(parcel) for parcel in self.lately] if self.again else [None]
            except dying_site.Gone:
                continue
            return answers[-1]

    def _heard(self, parcel: Parcel) -> Parcel | Loss:
        answer = self.remote.handle(parcel)
        if self.remote.broken:
            self.violations.append(self.remote.broken)
        if isinstance(answer, Parcel) and wire.kind_of(answer.header) == "report":
            report = wire.decode(answer.header, wire.Report)
            query = report.round, report.attempt
            self.sent.setdefault(query, set()).add(answer.note)
            self.sealed[*query, SITE] = np.frombuffer(self.remote.words, np.uint64)
        return answer

    def look(self) -> None:
        """Compare the disk with what was received; nothing else may use it now."""
        try:
            ledger = Ledger(self.disk / "ledger.sqlite")
        except Refused as err:
            self.violations.append(str(err))
            return
        state = {query: ledger.state(self._context(*query)) for query in self.sent}
        self.violations += [
            f"{query} was received and is {found}" for query, found in state.items() if found != "committed"
        ]
        self.violations += [
            f"{query} was masked {len(notes)} times" for query, notes in self.sent.items() if len(notes) > 1
        ]
        masked = self._masked()
        if masked is not None and ledger.state(self._context(*masked)) != "committed":
            self.violations.append(f"{masked} is masked in the vault and is {ledger.state(self._context(*masked))}")
        if self.sent and ledger.spent("h").epsilon < self.setting.owed[len(self.sent)]:
            self.violations.append("less epsilon than was sent")
        verify(ledger)
        ledger.close()

    def _context(self, number: int, attempt: int) -> str:
        return f"{self.plan.sha256}:{number}:{attempt}"

    def _masked(self) -> tuple[int, int] | None:
        """Give the query whose vector the vault says was masked, if the last one was."""
        try:
            state = site_state.load(self.vault(), charter=self.members[SITE].charter)
        except Refused:
            return None
        lines = read_lines(self.disk / "journal.jsonl")
        return (lines[-1]["round"], lines[-1]["attempt"]) if state.stage >= Stage.MASKING else None

    def update_of(self, site: str, number: int) -> FloatVec:
        scale = 1e-4 * (1 + self.names.index(site)) + 1e-5 * number
        return np.full(self.setting.start_P.size, scale, np.float32)

    def go(self) -> None:
        """Play the run, and some rounds more until the site is back if it died."""
        self.propose()
        for number in range(1, MOST_ROUNDS + 1):
            if number <= ROUNDS or SITE not in self.outcomes[self.done].state.survivors:
                self.round(number)
                self._judge(number)
        state = self.outcomes[self.done].state
        if SITE not in state.survivors and not {"propose", "keys"} & set(self.killed_in):
            self.violations.append("the site did not come back")
        self.close()
        if (status := self.remote.end()) and not os.WIFSIGNALED(status):
            self.violations.append("the process failed")
        self.look()

    def _judge(self, number: int) -> None:
        state = self.outcomes[number].state
        if self.outcomes[number].opened is None or not self.is_exact(number):
            self.violations.append(f"round {number} has no exact sum")
        if not (SITE in state.survivors or SITE in state.lost or SITE not in state.cohort):
            self.violations.append(f"round {number} lacks the site and does not say so")


def at_every_write(
    setting: Setting,
    *rounds: int,
    before: Sequence[Kill] = (),
    order: str = "right",
    again: bool = True,
    first: int = 1,
    until: str = "nothing",
) -> dict[str, Any]:
    """Kill the site at the 1st, 2nd, 3rd, ... write of each of these rounds of a run, until it survives them all.

    `came_through` counts the runs in which it was killed and is in the first of these rounds' sum nevertheless.

    Args:
        setting: of all runs.
        rounds: in which it dies, 0 for set-up or what a process does first.
        before: kills that come before these in every run.
        order: of commit, seal and send.
        again: whether it is sent again what it was sent in the round.
        first: of the writes to die at.
        until: words of a violation after which no more is looked for.
    """
    found, killed_in, received, came_through = list[str](), list[str](), 0, 0
    for count in range(first, 1000):
        with dying_site.scratch() as name:
            kills = [*before, *((number, count) for number in rounds)]
            run = Crashing(setting, Path(name), kills=kills, order=order, again=again)
            run.go()
        found += [f"killed at {count} in {run.killed_in}: {line}" for line in run.violations]
        received += len(run.sent)
        killed_in += run.killed_in
        came_through += len(run.killed_in) > len(before) and SITE in run.outcomes[rounds[0] or 1].state.survivors
        if len(run.killed_in) <= len(before) or until in "".join(found):
            return {
                "killed_in": killed_in, "violations": found, "received": received, "came_through": came_through
            }  # fmt: skip
    raise AssertionError("a thousand writes are more than a round has")


def main() -> None:
    """Run the scenarios named on the command line."""
    setting = Setting()
    wiring.START_P, wiring.FROZEN_F = setting.start_P, setting.frozen_F
    scenarios = {
        "set-up": lambda: at_every_write(setting, 0),
        "rounds": lambda: at_every_write(setting, 1, 2),
        "first round, silent": lambda: at_every_write(setting, 1, again=False),
        "second round, silent": lambda: at_every_write(setting, 2, again=False),
        "restart": lambda: at_every_write(setting, 0, before=[(1, RESERVED)]),
        "unfinished": lambda: at_every_write(Setting(steps=2, keeps=True), 1),
        "unfinished, silent": lambda: at_every_write(Setting(steps=2, keeps=True), 1, again=False),
        "seal first": lambda: at_every_write(setting, 1, order="seal first"),
        "send first": lambda: at_every_write(setting, 1, order="send first", first=RESERVED, until="was received"),
    }
    sys.stdout.write(json.dumps({name: scenarios[name]() for name in sys.argv[1:]}))


if __name__ == "__main__":
    main()
