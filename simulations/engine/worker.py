"""A worker: plays its share of a run's sites with one base model.

Site number i is worker i modulo the number of workers's, so a site's memory stays in one process; its disk is its
folder of the run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO

from partsong.client.budget.ledger import Ledger
from partsong.client.encoders.encoder import Progress
from partsong.client.model.host import ModelHost
from partsong.client.secure_sum.door import Answer
from partsong.client.site import Site, Watch
from partsong.common.codec import pack, unpack
from partsong.common.config import SimulationConfig
from partsong.common.errors import PartsongError, TryAgain
from partsong.common.identity.keys import verified_once
from partsong.simulations.consortium import found
from partsong.simulations.engine.frames import read_frame, write_frame
from partsong.simulations.engine.letters import (
    ANSWERED,
    BROKEN,
    FAILED,
    SHORT,
    Question,
    Questions,
    Replies,
    Reply,
    Stepped,
    loss_bytes,
    to_s,
)
from partsong.simulations.prepare import SiteTables, load_host, prepare, read_tables
from partsong.simulations.run_dir import RunDir
from partsong.simulations.shortcuts import shortcuts
from partsong.simulations.sites import make_site
from partsong.simulations.stacked.choose import company_of, in_company


@dataclass(frozen=True, kw_only=True, slots=True)
class Warm:
    """What the workers of a configuration have in common."""

    config: SimulationConfig
    tables: SiteTables
    host: ModelHost


@dataclass(kw_only=True, slots=True)
class _Ear:
    """What a site is told and tells while it answers one question."""

    since_s: float = 0.0
    """When the question came [monotonic]."""
    clock_s: float = 0.0
    """What the site's clock said then [Unix time]."""
    steps: list[Stepped] = field(default_factory=list)
    told: list[bytes] = field(default_factory=list)

    def hear(self, question: Question) -> None:
        """Begin with a question."""
        self.since_s, self.clock_s = time.monotonic(), to_s(question.clock_us)
        self.steps, self.told = [], []

    def clock(self) -> float:
        """What the site's clock says now [Unix time, s]."""
        return self.clock_s + time.monotonic() - self.since_s

    def step(self, number: int, progress: Progress) -> None:
        """Note a training step."""
        loss = loss_bytes(progress.local_loss)
        self.steps.append(Stepped(round=number, step=progress.step, steps=progress.steps, local_loss=loss))


class Worker:
    """The sites of one share, each started when the first question for it comes."""

    def __init__(self, run: Path, *, index: int, workers: int, ready: Warm | None = None) -> None:
        """Load the base model, unless it is there, and the records of the share.

        Args:
            run: directory of the run, whose plan and charter are written.
            index: of this worker, from 0.
            workers: of the run.
            ready: what was loaded for its configuration; of another one it is not used.
        """
        self._run, config = RunDir.reopen(run)
        ready = ready if ready is not None and ready.config == config else None
        self._until_closed = contextlib.ExitStack()
        self._until_closed.enter_context(shortcuts())
        if config.engine.verify_once:
            self._until_closed.enter_context(verified_once())
        tables = read_tables(config) if ready is None else ready.tables
        self._names = tuple(sorted(tables.sites))
        config = _threaded(config, config.model.threads or 1)
        mine, host = frozenset(self._names[index::workers]), None if ready is None else ready.host
        self._prepared = prepare(config, tables=tables, only=mine, host=host)
        self._consortium = found(self._names, config, self._run) if config.secure_sum.mode == "full" else None
        self._company = company_of(self._prepared)
        self._sites: dict[str, tuple[Site, Ledger]] = {}
        self._ears: dict[str, _Ear] = {}

    def reply(self, data: bytes) -> bytes:
        """Let sites answer. What goes wrong at a site is in its reply."""
        asked = unpack(Questions, data).each
        if self._company is None or len(asked) == 1:
            return pack(Replies(each=tuple(map(self._replied, asked))))
        ends = self._company.run([partial(self._replied, question) for question in asked])
        return pack(Replies(each=tuple(end.value for end in ends if end.value is not None)))

    def _replied(self, question: Question) -> Reply:
        ear = self._ears.setdefault(self._names[question.site], _Ear())
        ear.hear(question)
        try:
            answer, outcome, said = self._answered(question), ANSWERED, ""
        except TryAgain as err:
            answer, outcome, said = Answer(header=b""), SHORT, str(err)
        except PartsongError as err:
            answer, outcome, said = Answer(header=b""), FAILED, str(err)
        except Exception:  # noqa: BLE001 - the run's own process raises it
            answer, outcome, said = Answer(header=b""), BROKEN, traceback.format_exc()
        return Reply(
            outcome=outcome,
            header=answer.header,
            vector=answer.vector,
            note=answer.note,
            said=said.encode(),
            told=tuple(ear.told),
            steps=tuple(ear.steps),
        )

    def close(self) -> None:
        """Close the ledgers."""
        for _, ledger in self._sites.values():
            ledger.close()
        self._sites.clear()
        self._until_closed.close()

    def _answered(self, question: Question) -> Answer:
        name = self._names[question.site]
        if not question.header and name in self._sites:
            self._sites.pop(name)[1].close()
        if name not in self._sites:
            self._sites[name] = make_site(
                name,
                self._prepared,
                self._run,
                self._consortium,
                watch=self._watch(name),
                clock=self._ears[name].clock,
                stand_in=lambda _site, encoder: in_company(self._company, encoder),
            )
        if not question.header:
            return Answer(header=b"")
        return self._sites[name][0].handle(question.header, vector=bytes(question.vector), note=bytes(question.note))

    def _watch(self, name: str) -> Watch:
        ear = self._ears[name]
        return Watch(step=ear.step, refusal=lambda refused: ear.told.append(str(refused).encode()))


def warm(config: SimulationConfig) -> Warm | None:
    """Load what the workers of a configuration have in common, without starting a thread.

    Returns:
        None where something is wrong with it: whoever uses it finds out, and says so.
    """
    try:
        tables = read_tables(config)
        return Warm(config=config, tables=tables, host=load_host(_threaded(config, 1), tables))
    except Exception:  # noqa: BLE001 - loading it again raises the same
        return None


def serve(reply: Callable[[bytes], bytes], questions: IO[bytes], replies: IO[bytes]) -> None:
    """Answer until the questions end."""
    while (question := read_frame(questions)) is not None:
        write_frame(replies, reply(question))


def _threaded(config: SimulationConfig, threads: int) -> SimulationConfig:
    return dataclasses.replace(config, model=dataclasses.replace(config.model, threads=threads))
