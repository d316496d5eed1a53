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
    Reply,
    Stepped,
    loss_bytes,
    to_s,
)
from partsong.simulations.prepare import prepare, read_tables
from partsong.simulations.run_dir import RunDir
from partsong.simulations.shortcuts import shortcuts
from partsong.simulations.sites import make_site

LENGTH_BYTES = 8


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
        self._sites: dict[str, tuple[Site, Ledger]] = {}
        self._clock_s = self._since_s = 0.0
        self._steps: list[Stepped] = []
        self._told: list[bytes] = []

    def reply(self, data: bytes) -> bytes:
        """Let a site answer. Nothing is raised: what went wrong is in the reply."""
        self._steps, self._told = [], []
        try:
            question = unpack(Question, data)
            self._clock_s, self._since_s = to_s(question.clock_us), time.monotonic()
            answer, outcome, said = self._answered(question), ANSWERED, ""
        except TryAgain as err:
            answer, outcome, said = Answer(header=b""), SHORT, str(err)
        except PartsongError as err:
            answer, outcome, said = Answer(header=b""), FAILED, str(err)
        except Exception:  # noqa: BLE001 - the run's own process raises it
            answer, outcome, said = Answer(header=b""), BROKEN, traceback.format_exc()
        return pack(
            Reply(
                outcome=outcome,
                header=answer.header,
                vector=answer.vector,
                note=answer.note,
                said=said.encode(),
                told=tuple(self._told),
                steps=tuple(self._steps),
            )
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
                name, self._prepared, self._run, self._consortium, watch=self._watch(), clock=self._clock
            )
        if not question.header:
            return Answer(header=b"")
        return self._sites[name][0].handle(question.header, vector=bytes(question.vector), note=bytes(question.note))

    def _clock(self) -> float:
        """What the asked site's clock says [Unix time, s]."""
        return self._clock_s + time.monotonic() - self._since_s

    def _watch(self) -> Watch:
        return Watch(step=self._stepped, refusal=lambda refused: self._told.append(str(refused).encode()))

    def _stepped(self, number: int, progress: Progress) -> None:
        loss = loss_bytes(progress.local_loss)
        self._steps.append(Stepped(round=number, step=progress.step, steps=progress.steps, local_loss=loss))


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
