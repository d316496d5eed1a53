"""A whole site in a process of its own that can be killed at every write: model, ledger, journal, vault and copy.

Loaded by programs that may fork, such as the driver beside it.
"""

import gc
import math
import mmap
import os
import signal
import sqlite3
import sys
import tempfile
from collections.abc import Callable
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch

from partsong.client.budget.ledger import Ledger
from partsong.client.budget.spending import Purse
from partsong.client.data.encode import Encoded, EncodingReport, Record
from partsong.client.dp.sampler import SystemRandomness
from partsong.client.encoders.lora import LoraTraining
from partsong.client.model.host import ModelHost
from partsong.client.model.load import load
from partsong.client.rules.agreement import ByRules
from partsong.client.rules.consent import Rules
from partsong.client.secure_sum.door import Door, PlainDoor
from partsong.client.secure_sum.masked_door import MaskedDoor, Membership
from partsong.client.secure_sum.vault import Vault
from partsong.client.site import Chance, Site
from partsong.client.training.train import train_round
from partsong.client.training.unfinished import UnfinishedWork
from partsong.common import config, wire
from partsong.common.errors import PartsongError
from partsong.common.plan import Plan
from partsong.common.privacy.accounting import epsilon
from partsong.common.secure_sum.fixed_point import WordVec
from partsong.server.exchange import Parcel
from partsong.server.planning import Base, make_plan
from partsong.server.rounds import Loss

TESTS = Path(__file__).parents[1]
SITE = "c"
"""The site that is killed."""
Kill = tuple[int, int]
"""Round, 0 for set-up, and which of its writes."""
NEVER: Kill = (0, 0)
RECORDS, DELTA, EPSILON = 4, 1e-3, 50.0
NOISE = 0.5
"""Little, because its epsilon is quickly computed."""
ROUNDS, MOST_ROUNDS = 2, 4
"""Rounds of a run, and after which the killed site is back at the latest."""
PURSE: dict[str, Any] = {
    "holding": "h", "fingerprint": "f", "units": {"record": RECORDS, "patient": None}, "coordinator": "k",
}  # fmt: skip
_LAST = mmap.mmap(-1, 1 << 22)
"""What was masked last, with its length before it: shared with the processes that are forked, so that it outlives them."""
ANSWERED, FAILED, BROKEN = b"answered", b"failed", b"broken"


def scratch() -> tempfile.TemporaryDirectory[str]:
    """In memory where the system has such a folder: a killed process loses nothing that it has written."""
    memory = Path("/dev/shm")
    return tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None)


class Gone(Exception):
    """The site's process has ended."""


class Killer:
    """Kills its process, uncatchably, in the chosen round at the chosen of its writes; an answer that left is one.

    Looks around each commit of the ledger and before each sync of a file or a folder; what is as it was at the last
    look is no write. A file is written before its sync, and renamed or removed before its folder's, so no state of
    the disk is left out but those inside SQLite's commit.
    """

    def __init__(self, folder: Path, kill: Kill) -> None:
        self._folder, (self._kill_in, self._left) = folder, kill
        self._seen, self.round = "", 0

    def look(self, *, left: bool = False) -> None:
        """Count what has changed on the disk, or an answer that left."""
        seen = repr([(f.name, f.stat().st_mtime_ns, f.stat().st_ino) for f in sorted(self._folder.rglob("*"))])
        if (seen == self._seen and not left) or self.round != self._kill_in:
            return
        self._seen = seen
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def arm(self) -> None:
        """Look from now on."""
        sync, connect, killer = os.fsync, sqlite3.connect, self

        def looked(file: int) -> None:
            self.look()
            sync(file)

        class Looked(sqlite3.Connection):
            def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
                if sql != "COMMIT":
                    return super().execute(sql, *values)
                killer.look()
                done = super().execute(sql, *values)
                killer.look()
                return done

        os.fsync = looked
        sqlite3.connect = lambda *args, **kwargs: connect(*args, factory=Looked, **kwargs)


class LatePurse(Purse):
    """The control: a commit that waits until the update is sealed, or sent."""

    late: str | None = None

    def commit(self, context: str) -> None:
        self.late = context

    def catch_up(self) -> None:
        if self.late is not None:
            super().commit(self.late)
            self.late = None


class TellingDoor(MaskedDoor):
    """A door that remembers what it was given to mask, so that a sum can be compared with its summands."""

    words: bytes = b""
    after_sealing: Callable[[], None] = staticmethod(lambda: None)

    def report(self, words_W: WordVec) -> tuple[bytes, bytes]:
        self.words = words_W.tobytes()
        _LAST[: 8 + len(self.words)] = len(self.words).to_bytes(8, "big") + self.words
        report = super().report(words_W)
        self.after_sealing()
        return report

    def repeat(self, roster: wire.Roster, note: bytes) -> tuple[bytes, bytes] | None:
        report = super().repeat(roster, note)
        if report is not None:
            self.words = _LAST[8 : 8 + int.from_bytes(_LAST[:8], "big")]
        return report


class Setting:
    """What lives through all runs: the model, its plan and the records."""

    def __init__(self, *, steps: int = 1, keeps: bool = False) -> None:
        """Load them.

        Args:
            steps: of a round.
            keeps: whether unfinished work outlives its process.
        """
        torch.set_num_threads(1)
        self.keeps = keeps
        self.host = load(
            config.ModelConfig(source=str(TESTS / "fixtures" / "tiny-llama"), device="cpu"),
            config.AdapterConfig(r=1, lora_alpha=1.0, target_modules=("q_proj",)),
        )
        self.start_P, self.frozen_F = self.host.take(), self.host.take(trained=False)
        self.plan = _plan(self.host, steps=steps)
        ids = [np.arange(3 + n, 6 + n, dtype=np.int32) for n in range(RECORDS)]
        self.records = tuple(Record(input_ids=i, labels=i, label=-1, unit=None) for i in ids)
        counts = {"truncated": 0, "tokens": 12, "tokens_cut": 0, "without_loss": 0, "longest": 3, "max_length": 512}
        self.encoded = Encoded(records=self.records, report=EncodingReport(records=RECORDS, **counts))
        terms, size = self.plan.dp, self.plan.layout.size(trained=True)
        assert terms is not None
        self.event = terms.events(steps=self.plan.training.steps_per_round, size=size).at_site(records=RECORDS)
        self.owed = [epsilon([self.event] * n, delta=DELTA).epsilon if n else 0.0 for n in range(MOST_ROUNDS + 1)]
        self._warm()

    def site(self, door: Door, purse: Purse, folder: Path, *, vault: Vault | None = None) -> Site:
        return Site(
            name=SITE, consent=ByRules(Rules(minimum_records=1, max_epsilon=EPSILON)), door=door, purse=purse,
            encoder=LoraTraining(host=self.host, labels=(), encoded=self.encoded),
            journal=folder / "journal.jsonl",
            chance=lambda _p, _n: Chance(samples=SystemRandomness(), rounding=np.random.default_rng()),
            unfinished=noting_every_step(folder, vault) if self.keeps and vault is not None else None,
        )  # fmt: skip

    def _warm(self) -> None:
        """Do once here what every process would pay for again: imports of a first step, epsilons of all rounds."""
        plan = self.plan
        train_round(
            self.host, self.records, sampling_rate=plan.sampling_rate, training=plan.training, dp=plan.dp,
            randomness=SystemRandomness(),
        )  # fmt: skip
        with scratch() as name:
            ledger = Ledger(Path(name) / "ledger.sqlite")
            ledger.set_ceiling("h", epsilon=EPSILON, delta=DELTA)
            site = self.site(PlainDoor(name=SITE, rules=Rules()), purse := Purse(ledger, **PURSE), Path(name))
            vector = wire.vector_bytes(self.frozen_F) + wire.vector_bytes(self.start_P)
            site.handle(wire.encode(wire.Propose(plan=plan)), vector=vector)
            for number in range(1, MOST_ROUNDS + 1):
                purse.commit(purse.reserve(plan, number=number, attempt=1))
                ledger.spent("h")
            ledger.close()
        gc.freeze()


def noting_every_step(folder: Path, vault: Vault) -> UnfinishedWork:
    """Unfinished work that is noted whatever it costs."""
    return UnfinishedWork(folder / "unfinished", vault=vault, most_share=math.inf)


def _plan(host: ModelHost, *, steps: int) -> Plan:
    settings = config.SimulationConfig(
        model=config.ModelConfig(source="x"), data=config.DataConfig(),
        adapter=config.AdapterConfig(r=1, lora_alpha=1.0),
        privacy=config.PrivacyConfig(mode="dp", epsilon=EPSILON, delta=DELTA, sampling_rate=0.25, noise_multiplier=NOISE),
        training=config.TrainingConfig(steps_per_round=steps), cohort=config.CohortConfig(minimum=3),
        secure_sum=config.SecureSumConfig(field_bits=32), rounds=MOST_ROUNDS,
    )  # fmt: skip
    base = Base(sha256=host.files.sha256, lora=host.lora_options, layout=host.layout)
    start = {"frozen_F": host.take(trained=False), "start_P": host.take()}
    return make_plan(settings, run="crashes", max_sites=5, base=base, labels=(), **start)


def wake(setting: Setting, member: Membership, folder: Path, *, order: str) -> tuple[Site, TellingDoor, LatePurse]:
    """Start the site on its folder, new or after a crash."""
    ledger = Ledger(folder / "ledger.sqlite")
    if "h" not in ledger.holdings():
        ledger.set_ceiling("h", epsilon=EPSILON, delta=DELTA)
    copy = folder / "copy.safetensors"
    door = TellingDoor(member, name=SITE, copy=copy, entropy=os.urandom, clock=lambda: 1000.0)
    late = LatePurse(ledger, **PURSE)
    if order == "seal first":
        door.after_sealing = late.catch_up
    purse = Purse(ledger, **PURSE) if order == "right" else late
    return setting.site(door, purse, folder, vault=member.vault), door, late


def live(site: Site, door: TellingDoor, late: LatePurse, line: Connection, killer: Killer) -> None:
    """Answer messages until the other end hangs up."""
    while True:
        try:
            header, vector, note = (line.recv_bytes() for _ in range(3))
        except EOFError:
            return
        late.catch_up()
        if wire.kind_of(header) == "open":
            killer.round = wire.decode(header, wire.Open).round
        try:
            answer = site.handle(header, vector=vector, note=note)
            frames = ANSWERED, answer.header, answer.vector, answer.note, door.words
        except PartsongError as err:
            frames = FAILED, str(err).encode(), b"", b"", b""
        except Exception as err:  # noqa: BLE001 - told to the parent, which counts it as a violation
            frames = BROKEN, repr(err).encode(), b"", b"", b""
        for frame in frames:
            line.send_bytes(frame)
        killer.look(left=True)


class Remote:
    """The site's process, from outside."""

    def __init__(self, start: Callable[[Connection], None]) -> None:
        here, there = Pipe()
        self._line, self.words, self.broken = here, b"", ""
        self._child = os.fork()
        if self._child == 0:
            here.close()
            try:
                start(there)
            except BaseException as err:  # noqa: BLE001 - nothing of the parent may run on in the child
                sys.stderr.write(repr(err))
                sys.stderr.flush()
                os._exit(1)
            os._exit(0)
        there.close()

    def handle(self, parcel: Parcel) -> Parcel | Loss:
        """Deliver a message and wait for the answer.

        Raises:
            Gone: the process ended before it had answered.
        """
        try:
            for frame in (parcel.header, parcel.vector, parcel.note):
                self._line.send_bytes(frame)
            how, header, vector, note, self.words = (self._line.recv_bytes() for _ in range(5))
        except (EOFError, ConnectionError) as err:
            raise Gone from err
        if how == BROKEN:
            self.broken = header.decode()
        return Parcel(header=header, vector=vector, note=note) if how == ANSWERED else Loss.FAILED

    def end(self) -> int:
        """Hang up, and give the status of the process once it has ended."""
        self._line.close()
        return os.waitpid(self._child, 0)[1]
