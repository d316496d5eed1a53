"""A worker: plays its share of a run's sites with one base model.

    python -m partsong.simulations.engine.worker RUN INDEX WORKERS

reads questions from stdin and writes replies to stdout, each after its length in 8 bytes. Site number i is worker
i modulo WORKERS's, so a site's memory stays in one process; its disk is its folder of the run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import BinaryIO

from partsong.client.budget.ledger import Ledger
from partsong.client.encoders.encoder import Progress
from partsong.client.secure_sum.door import Answer
from partsong.client.site import Site, Watch
from partsong.common.codec import pack, unpack
from partsong.common.errors import PartsongError, TryAgain
from partsong.common.identity.keys import verified_once
from partsong.simulations.consortium import found
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
from partsong.simulations.prepare import prepare, read_tables
from partsong.simulations.run_dir import RunDir
from partsong.simulations.shortcuts import shortcuts
from partsong.simulations.sites import make_site
from partsong.simulations.stacked.choose import company_of, in_company

LENGTH_BYTES = 8


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

    def __init__(self, run: Path, *, index: int, workers: int) -> None:
        """Load the base model and the records of the share.

        Args:
            run: directory of the run, whose plan and charter are written.
            index: of this worker, from 0.
            workers: of the run.
        """
        self._run, config = RunDir.reopen(run)
        self._until_closed = contextlib.ExitStack()
        self._until_closed.enter_context(shortcuts())
        if config.engine.verify_once:
            self._until_closed.enter_context(verified_once())
        tables = read_tables(config)
        self._names = tuple(sorted(tables.sites))
        model = dataclasses.replace(config.model, threads=config.model.threads or 1)
        config = dataclasses.replace(config, model=model)
        self._prepared = prepare(config, tables=tables, only=frozenset(self._names[index::workers]))
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


def serve(reply: Callable[[bytes], bytes], questions: BinaryIO, replies: BinaryIO) -> None:
    """Answer until the questions end."""
    while head := questions.read(LENGTH_BYTES):
        answer = reply(questions.read(int.from_bytes(head, "big")))
        replies.write(len(answer).to_bytes(LENGTH_BYTES, "big"))
        replies.write(answer)
        replies.flush()


def main(arguments: Sequence[str]) -> None:
    """Serve over stdin and stdout; whatever else is printed goes to stderr."""
    run, index, workers = arguments
    with os.fdopen(os.dup(1), "wb") as replies:
        os.dup2(2, 1)
        worker = Worker(Path(run), index=int(index), workers=int(workers))
        replies.write(bytes(LENGTH_BYTES))
        replies.flush()
        try:
            serve(worker.reply, sys.stdin.buffer, replies)
        finally:
            worker.close()


if __name__ == "__main__":
    main(sys.argv[1:])
