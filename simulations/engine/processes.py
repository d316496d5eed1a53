"""Workers as processes of this machine, each at the other end of two pipes.

What all of them have in common, the program and its base model, is loaded once, by a process that then divides itself
into the workers: less time, and one copy of the base model in memory. It is started with the configuration alone, so
that it loads while the run's process reads records and model for itself.

    the run's process   the process that becomes the workers
    -----------------   ------------------------------------
    warm_up  ---------> configuration                                 (stdin)
    start    ---------> directory of the run; it divides itself       (stdin)
                        each worker: 8 zero bytes when it is ready    (its pipe)
    ask      <--------> question, answer                              (its pipes)

A process whose accelerator may be awake cannot divide itself; there each worker is a process from its start.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from partsong.common.build import to_tree
from partsong.common.config import SimulationConfig
from partsong.common.errors import TryAgain
from partsong.simulations.engine.frames import read_frame, write_frame

_LEAVE_S, _END_S = 1.0, 5.0
"""How long workers may take to leave by themselves, and to be gone once they are killed."""
_SURROUNDINGS = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
"""Read by the libraries below torch when they are loaded. A process that has threads cannot divide itself; the workers
take theirs afterwards."""
_DRIVERS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
"""Files of accelerators that torch would find by itself."""

_Process = subprocess.Popen[bytes]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Ends:
    """The run's ends of a worker's pipes."""

    questions: IO[bytes]
    answers: IO[bytes]


class ProcessCrew:
    """Worker processes of one run."""

    def __init__(self, config: SimulationConfig) -> None:
        """Prepare; no process is started yet.

        Args:
            config: of the run, with one worker or more.
        """
        self._config, self._run = config, Path()
        self._ends: list[_Ends] = []
        self._processes: list[_Process] = []

    def of(self, run: Path) -> ProcessCrew:
        """Name the directory of the run, which is written by the time of `start`."""
        self._run = run
        return self

    def warm_up(self) -> None:
        """Let the workers load what needs no run; nothing is waited for, and a second call does nothing."""
        if self._processes:
            return
        workers = self._config.engine.workers
        together = workers if divides(self._config.model.device) else 1
        for first in range(0, workers, together):
            process = self._popen(first, together)
            self._tell(process, to_tree(self._config))

    def start(self) -> None:
        """Begin the run in all workers, then wait until each is ready.

        Raises:
            TryAgain: one of them ended before it was ready; stderr says why.
        """
        self.warm_up()
        for process in self._processes:
            self._tell(process, {"run": str(self._run), "workers": self._config.engine.workers})
        for worker in range(len(self._ends)):
            self._read(worker)

    def ask(self, worker: int, question: bytes) -> bytes:
        """Ask a worker and wait.

        Raises:
            TryAgain: it is gone.
        """
        try:
            write_frame(self._ends[worker].questions, question)
        except BrokenPipeError:
            raise _gone(worker) from None
        return self._read(worker)

    def close(self) -> None:
        """End all processes; one that stays busy is killed, and what is on its sites' disks stands."""
        told = [process.stdin for process in self._processes if process.stdin is not None]
        for pipe in (*told, *(ends.questions for ends in self._ends)):
            with contextlib.suppress(BrokenPipeError):  # of bytes that nobody reads any more
                pipe.close()
        for process in self._processes:
            try:
                process.wait(_LEAVE_S)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(_END_S)
        for ends in self._ends:
            ends.answers.close()
        self._processes.clear()
        self._ends.clear()

    def _popen(self, first: int, together: int) -> _Process:
        """Start the process of some workers."""
        theirs: list[int] = []
        for _ in range(together):
            question_out, question_in = os.pipe()
            answer_out, answer_in = os.pipe()
            theirs += [question_out, answer_in]
            self._ends.append(_Ends(questions=os.fdopen(question_in, "wb"), answers=os.fdopen(answer_out, "rb")))
        process = subprocess.Popen(  # noqa: S603 - ourselves
            [sys.executable, "-P", "-m", "partsong.simulations.engine.crew_process", *map(str, (first, *theirs))],
            stdin=subprocess.PIPE,
            env={**os.environ, **_SURROUNDINGS},
            pass_fds=theirs,
            start_new_session=True,  # Ctrl-C is for this process, which ends them
        )
        for end in theirs:
            os.close(end)
        self._processes.append(process)
        return process

    def _tell(self, process: _Process, what: dict[str, Any]) -> None:
        if process.stdin is None:
            raise AssertionError("every process was started with a pipe")
        with contextlib.suppress(BrokenPipeError):  # reading finds out
            write_frame(process.stdin, json.dumps(what).encode())

    def _read(self, worker: int) -> bytes:
        reply = read_frame(self._ends[worker].answers)
        if reply is None:
            raise _gone(worker)
        return reply


def divides(device: str) -> bool:
    """Whether a process with this `model.device` can divide itself: on Linux, as long as no driver may be awake."""
    if sys.platform != "linux":
        return False
    return device == "cpu" or (device == "auto" and not any(Path(driver).exists() for driver in _DRIVERS))


@contextlib.contextmanager
def crew_of(config: SimulationConfig) -> Iterator[ProcessCrew | None]:
    """Let a run's workers warm up, for the time of a block; None where the run has no workers of this kind."""
    if config.engine.workers == 0 or config.engine.name != "local":
        yield None
        return
    crew = ProcessCrew(config)
    try:
        crew.warm_up()
        yield crew
    finally:
        crew.close()


def _gone(worker: int) -> TryAgain:
    return TryAgain(f"worker {worker} ended; its sites' disks stand: resume the run")
