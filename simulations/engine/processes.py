"""Workers as processes of this machine, each at the other end of a pipe."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

from partsong.common.errors import TryAgain
from partsong.simulations.engine.worker import LENGTH_BYTES

_END_S = 5.0
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
"""Read by the libraries below torch when they are loaded."""

Process = subprocess.Popen[bytes]


class ProcessCrew:
    """Worker processes of one run."""

    def __init__(self, run: Path, *, workers: int, threads: int) -> None:
        """Prepare; no process is started yet.

        Args:
            run: directory of the run.
            workers: how many.
            threads: CPU threads of each.
        """
        self._run, self._workers, self._threads = run, workers, threads
        self._processes: list[Process] = []

    def start(self) -> None:
        """Start all processes at once, then wait for each.

        Raises:
            TryAgain: one of them ended before it was ready; stderr says why.
        """
        surroundings = {**os.environ, **dict.fromkeys(_THREADS, str(self._threads))}
        for index in range(self._workers):
            arguments = (str(self._run), str(index), str(self._workers))
            self._processes.append(
                subprocess.Popen(  # noqa: S603 - ourselves
                    [sys.executable, "-P", "-m", "partsong.simulations.engine.worker", *arguments],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    env=surroundings,
                    start_new_session=True,  # Ctrl-C is for this process, which ends them
                )
            )
        for index in range(self._workers):
            self._read(index)

    def ask(self, worker: int, question: bytes) -> bytes:
        """Ask a worker and wait.

        Raises:
            TryAgain: it is gone.
        """
        pipe = self._processes[worker].stdin
        if pipe is None:
            raise AssertionError("every worker was started with a pipe")
        try:
            pipe.write(len(question).to_bytes(LENGTH_BYTES, "big"))
            pipe.write(question)
            pipe.flush()
        except BrokenPipeError:
            raise self._gone(worker) from None
        return self._read(worker)

    def close(self) -> None:
        """End all processes; one that is busy is killed, and what is on its sites' disks stands."""
        for process in self._processes:
            process.kill()
            process.wait(_END_S)
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with contextlib.suppress(BrokenPipeError):  # of bytes that nobody reads any more
                        pipe.close()
        self._processes.clear()

    def _read(self, worker: int) -> bytes:
        pipe = self._processes[worker].stdout
        if pipe is None:
            raise AssertionError("every worker was started with a pipe")
        head = pipe.read(LENGTH_BYTES)
        size = int.from_bytes(head, "big")
        reply = pipe.read(size)
        if len(head) < LENGTH_BYTES or len(reply) < size:
            raise self._gone(worker)
        return reply

    def _gone(self, worker: int) -> TryAgain:
        code = self._processes[worker].wait(_END_S)
        return TryAgain(f"worker {worker} ended with code {code}; its sites' disks stand: resume the run")
