"""kill -9, Ctrl-C and a full disk, with the real command in its own process."""

import os
import resource
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Call = Callable[..., Any]
Stopped = Callable[..., tuple[Path, int, str]]

LARGEST_FILE = 60_000
"""Bytes. Above every other file of a run, below a checkpoint of the tiny model: twice 4,608 float64 numbers."""
REMEMBERS = "optimizer.name=fedavgm"
"""An optimizer whose memory makes checkpoints the largest files."""


def adapter(run: Path) -> bytes:
    """The published weights."""
    return (run / "adapter" / "adapter_model.safetensors").read_bytes()


def hears_ctrl_c() -> None:
    """A shell that starts the tests in the background makes all that they start deaf to it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture
def stopped(command: list[str], tmp_path: Path) -> Stopped:
    """Start the command, wait for a line of its talk, send a signal; give the run, the exit code and the talk."""

    def run(overrides: list[str], *, line: str, send: signal.Signals) -> tuple[Path, int, str]:
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        with subprocess.Popen(
            [*command, "simulate", *overrides], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env,
            preexec_fn=hears_ctrl_c,  # noqa: PLW1509 - one call of the system, no lock is taken
        ) as process:  # fmt: skip
            assert process.stderr is not None
            said = []
            for text in process.stderr:
                said.append(text)
                if line in text:
                    process.send_signal(send)
                    break
            said.append(process.stderr.read())
            code = process.wait()
        return next((tmp_path / "runs").iterdir()), code, "".join(said)

    return run


@pytest.mark.slow
@pytest.mark.parametrize(
    "line",
    [
        *("site-1: trained", "round 3 of 3"),
        *(
            pytest.param(line, marks=pytest.mark.nightly)
            for line in ("tokenising", "held-out", "round 1 of 3", "site-2: sealed", "round 2 of 3")
        ),
    ],
)
def test_a_run_that_was_killed_ends_with_the_adapter_of_an_unbroken_one(
    call: Call, usual: list[str], stopped: Stopped, tmp_path: Path, line: str
) -> None:
    """`simulate --resume RUN` after kill -9, byte for byte; before the first round there may be no run yet."""
    overrides = [*usual, "rounds=3", f"data.held_out={tmp_path / 'rows.jsonl'}"]
    if line == "tokenising":
        (tmp_path / "runs" / "none").mkdir(parents=True)

    run, code, _ = stopped(overrides, line=line, send=signal.SIGKILL)

    assert code == -signal.SIGKILL
    resumed = call("simulate", "--resume", str(run))
    if line == "tokenising":
        assert resumed.code == 2
        return
    assert resumed.code == 0, resumed.err
    assert call("simulate", *overrides, f"run_dir={tmp_path / 'unbroken'}").code == 0
    assert adapter(run) == adapter(next((tmp_path / "unbroken").iterdir()))


@pytest.mark.slow
def test_under_privacy_the_round_that_was_killed_is_reported_as_lost(
    call: Call, usual: list[str], stopped: Stopped
) -> None:
    """The report names it, and the final epsilon is within the plan's."""
    overrides = [*usual, "privacy=dp", "seed=null", "privacy.epsilon=3", "privacy.delta=1e-3", "rounds=3"]

    run, _, _ = stopped([*overrides, "drop=['site-1@2']", "sites=5"], line="dropped out", send=signal.SIGKILL)

    resumed = call("simulate", "--resume", str(run))
    assert resumed.code == 0, resumed.err
    assert "round 2: lost, the run was stopped after its query went out; its budget is spent" in resumed.out
    assert "epsilon 3.000 of 3" in resumed.out or "epsilon 2.99" in resumed.out


@pytest.mark.slow
def test_ctrl_c_ends_at_once_with_130_and_says_how_to_go_on(usual: list[str], stopped: Stopped) -> None:
    """No traceback, no waiting for the rounds to come."""
    run, code, said = stopped([*usual, "rounds=500"], line="site-1: trained", send=signal.SIGINT)

    assert code == 130
    assert "interrupted; `partsong simulate --resume RUN` continues a run" in said
    assert "Traceback" not in said
    assert len((run / "opened.jsonl").read_text().splitlines()) < 500


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["full", pytest.param("off", marks=pytest.mark.nightly)])
def test_a_full_disk_leaves_the_run_resumable(
    call: Call, command: list[str], usual: list[str], tmp_path: Path, mode: str
) -> None:
    """Exit code 75; no part of a file is left; with room again the run ends as an unbroken one.

    The first large file is the checkpoint of round 1, with masks after the sum of the round was kept.
    """
    usual = [*usual, f"secure_sum={mode}", REMEMBERS]

    def small_disk() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (LARGEST_FILE, LARGEST_FILE))

    ended = subprocess.run(
        [*command, "simulate", *usual],
        capture_output=True, text=True, preexec_fn=small_disk, check=False,
    )  # fmt: skip

    run = next((tmp_path / "runs").iterdir())
    assert ended.returncode == 75, ended.stderr
    file = "round-0001.safetensors"
    assert f"{file}: no space left to write it; the file is as it was; free space, then resume" in ended.stderr
    assert [left.name for left in run.rglob("*") if left.is_file() and left.name.endswith((file, ".part"))] == []
    assert call("simulate", "--resume", str(run)).code == 0
    assert call("simulate", *usual, f"run_dir={tmp_path / 'unbroken'}").code == 0
    assert adapter(run) == adapter(next((tmp_path / "unbroken").iterdir()))


@pytest.mark.nightly
def test_a_disk_that_fills_later_leaves_the_earlier_checkpoint(
    call: Call, command: list[str], usual: list[str], stopped: Stopped, tmp_path: Path
) -> None:
    """Round 1 stands when round 2 cannot be written."""
    usual = [*usual, REMEMBERS]
    run, _, _ = stopped([*usual, "rounds=3"], line="round 2 of 3", send=signal.SIGKILL)
    before = {file.name: file.read_bytes() for file in (run / "checkpoint").iterdir() if not file.name.startswith(".")}

    def small_disk() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (LARGEST_FILE, LARGEST_FILE))

    ended = subprocess.run(
        [*command, "simulate", "--resume", str(run)],
        capture_output=True, text=True, preexec_fn=small_disk, check=False,
    )  # fmt: skip

    assert ended.returncode == 75, ended.stderr
    assert {file.name: file.read_bytes() for file in (run / "checkpoint").iterdir()} == before
    assert "round-0001.safetensors" in before
    assert call("simulate", "--resume", str(run)).code == 0
    assert call("simulate", *usual, "rounds=3", f"run_dir={tmp_path / 'unbroken'}").code == 0
    assert adapter(run) == adapter(next((tmp_path / "unbroken").iterdir()))
