"""Commands that take a while, on a terminal and in a pipe: both are told how far they are, neither loses the result."""

import contextlib
import json
import os
import pty
import re
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

FIXTURES = Path(__file__).parents[1] / "fixtures"
LIMIT_S = 300
"""For one command on a loaded machine; a test that passes does not wait for it."""
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
COLOUR = re.compile(r"\x1b\[(?:\d+;)*(?:3[0-8]|4[0-8]|9[0-7]|10[0-7])(?:;\d+)*m")


@dataclass(frozen=True)
class Ran:
    """A command that has ended."""

    code: int
    out: str
    err: str


def ran(words: Sequence[str], *, terminal: bool, **environment: str) -> Ran:
    """Run a command whose stderr is a terminal, or a pipe; stdout is a pipe, as where a program reads the result."""
    around = {name: value for name, value in os.environ.items() if name not in {"NO_COLOR", "FORCE_COLOR"}}
    around |= {"TERM": "xterm-256color", "COLUMNS": "120", **environment}
    end, told = pty.openpty() if terminal else os.pipe()
    heard = bytearray()

    def hear() -> None:
        with contextlib.suppress(OSError):  # how a terminal says that nobody is left on the other side
            while part := os.read(end, 1 << 16):
                heard.extend(part)

    command = [sys.executable, "-P", "-m", "partsong", *words]
    listener = threading.Thread(target=hear)
    listener.start()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=told, text=True, env=around) as child:
        os.close(told)
        out, _ = child.communicate(timeout=LIMIT_S)
    listener.join(LIMIT_S)
    os.close(end)
    return Ran(child.returncode, out, heard.decode())


def simulated(folder: Path) -> list[str]:
    """A short run."""
    rows = [{"prompt": f"Case {i}\nGroup:", "completion": f" {i % 3}"} for i in range(60)]
    (folder / "notes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [
        "model=local", f"model.source={FIXTURES / 'tiny-llama'}", "model.threads=1", "data=local",
        f"data.path={folder / 'notes.jsonl'}", "data.max_length=48", "sites=3", "rounds=2", "privacy=none",
        "training.steps_per_round=1", f"run_dir={folder / 'runs'}",
    ]  # fmt: skip


@pytest.mark.parametrize("terminal", [True, False], ids=["terminal", "pipe"])
def test_asking_for_a_run_says_each_step(tmp_path: Path, *, terminal: bool) -> None:
    """Until now only the base model is read, which may be large; the result stands alone on stdout."""
    words = ["coordinator", "run", "trial", "model=local", f"model.source={FIXTURES / 'tiny-llama'}", "max_length=48"]

    done = ran([*words, "--dir", str(tmp_path), "--out", str(tmp_path / "job")], terminal=terminal)

    assert (done.code, done.out) == (0, f"{tmp_path / 'job'}\n"), done.err
    plain = ESCAPE.sub("", done.err)
    assert "reading the base model" in plain
    assert "writing the job" in plain
    assert bool(ESCAPE.search(done.err)) == terminal


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("command", "shown"),
    [(["simulate"], "round 2 of 2"), (["forecast", "--records", "public", "--rounds", "2"], "round 2 of 2")],
    ids=["simulate", "forecast"],
)
def test_what_plays_rounds_shows_them(tmp_path: Path, command: list[str], shown: str) -> None:
    """A table on a terminal, without a colour where none is wanted; lines in a pipe; the result is the same object."""
    words = [*command, "--json", *simulated(tmp_path)]

    live, bare, piped = ran(words, terminal=True), ran(words, terminal=True, NO_COLOR="1"), ran(words, terminal=False)

    assert [done.code for done in (live, bare, piped)] == [0, 0, 0], piped.err
    assert all(shown in ESCAPE.sub("", done.err) for done in (live, bare, piped))
    assert len({tuple(json.loads(done.out)) for done in (live, bare, piped)}) == 1
    assert COLOUR.search(live.err)
    assert not COLOUR.search(bare.err)
    assert not ESCAPE.search(piped.err)
