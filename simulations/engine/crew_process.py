"""The process that becomes the workers of a run; `processes` says what it is told and what it says.

    python -m partsong.simulations.engine.crew_process FIRST QUESTIONS ANSWERS [QUESTIONS ANSWERS]...

FIRST is the number of its first worker; for each worker the descriptors follow from which questions come and to which
answers go. Whatever else is printed goes to stderr.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from partsong.common.build import build
from partsong.common.config import SimulationConfig
from partsong.simulations.engine.frames import read_frame, write_frame
from partsong.simulations.engine.worker import Warm, Worker, serve, warm


@dataclass(frozen=True, kw_only=True, slots=True)
class _Post:
    """A worker's number and its descriptors."""

    index: int
    questions: int
    answers: int

    def close(self) -> None:
        """Leave the pipes to others."""
        os.close(self.questions)
        os.close(self.answers)


def main(arguments: Sequence[str]) -> int:
    """Load, divide, serve; give the exit code.

    Guarantees: ends when the process that started it does, whatever that one had said by then.
    """
    os.dup2(2, 1)
    first, *ends = map(int, arguments)
    pairs = zip(ends[::2], ends[1::2], strict=True)
    posts = [_Post(index=first + i, questions=q, answers=a) for i, (q, a) in enumerate(pairs)]
    if (told := _told()) is None:
        return 0
    ready = warm(build(SimulationConfig, told))
    if (begin := _told()) is None:
        return 0
    run, workers = Path(begin["run"]), int(begin["workers"])
    if len(posts) == 1:
        return _serve(posts[0], run, workers, ready)
    return _divide(posts, run, workers, ready)


def _told() -> Any:
    data = read_frame(sys.stdin.buffer)
    return None if data is None else json.loads(data)


def _divide(posts: Sequence[_Post], run: Path, workers: int, ready: Warm | None) -> int:
    """Become a worker in a child for each post, and wait for all of them."""
    gc.freeze()  # what is common stays common: collecting would write to it
    for post in posts:
        if os.fork() == 0:
            for other in posts:
                if other is not post:
                    other.close()
            os._exit(_serve(post, run, workers, ready))
    for post in posts:
        post.close()
    return max(os.waitstatus_to_exitcode(os.wait()[1]) != 0 for _ in posts)


def _serve(post: _Post, run: Path, workers: int, ready: Warm | None) -> int:
    """Be one worker until the questions end."""
    try:
        with os.fdopen(post.questions, "rb") as questions, os.fdopen(post.answers, "wb") as answers:
            worker = Worker(run, index=post.index, workers=workers, ready=ready)
            write_frame(answers, b"")
            try:
                serve(worker.reply, questions, answers)
            finally:
                worker.close()
    except BaseException:  # noqa: BLE001 - in a child nobody else would say it
        traceback.print_exc()
        return 1
    finally:
        sys.stderr.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
