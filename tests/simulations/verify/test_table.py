"""`partsong verify` as a user calls it: exit codes, the table, JSON."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from partsong.simulations import cli
from partsong.simulations.verify.table import Bar

Call = Callable[..., tuple[int, str]]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Call `partsong verify`; give exit code and stdout."""

    def run(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["partsong", "verify", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main()
        return int(end.value.code or 0), capsys.readouterr().out

    return run


def test_a_run_that_holds_exits_with_0(finished: Path, call: Call) -> None:
    """One line a file, and the outcome last."""
    code, out = call(str(finished))

    lines = out.splitlines()
    assert code == 0
    assert any(line.startswith("right") and "coordinator/results/000003.result" in line for line in lines)
    assert any(line.startswith("not checked") and "coordinator/spool/000001" in line for line in lines)
    assert lines[-1].startswith("verified: ")
    assert "2 of 3 of them recomputed" in lines[-1]


def test_a_run_that_differs_exits_with_1_and_names_the_round(finished: Path, call: Call, tmp_path: Path) -> None:
    """The round and the file stand in the last line."""
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    file = run / "coordinator" / "spool" / "000003" / "1.words"
    file.write_bytes(bytes(len(file.read_bytes())))

    code, out = call(str(run))

    assert code == 1
    assert out.splitlines()[-1].startswith("NOT VERIFIED: round 3, coordinator/spool/000003; 1 wrong")


def test_a_directory_that_is_no_run_exits_with_2(call: Call, tmp_path: Path) -> None:
    """As every wrong argument."""
    code, out = call(str(tmp_path))

    assert (code, out) == (2, "")


def test_json_holds_every_finding(finished: Path, call: Call) -> None:
    """One object, with the hashes that people compare."""
    code, out = call(str(finished), "--json")

    told = json.loads(out)
    assert code == 0
    assert told["verified"] is True
    assert len(told["charter_sha256"]) == len(told["plan_sha256"]) == 64
    assert {line["verdict"] for line in told["findings"]} == {"right", "not checked"}


def test_an_unmasked_run_is_not_called_verified(unmasked: Path, call: Call) -> None:
    """Nothing differs, and nobody signed anything."""
    code, out = call(str(unmasked), "--json")

    told = json.loads(out)
    assert (code, told["verified"], told["masked"]) == (0, False, False)
    assert told["summary"].startswith("unmasked run")


def test_a_short_check_says_nothing_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    """Nobody waits for it."""
    with Bar(Console(stderr=True, force_terminal=False)) as bar:
        bar(1, 2)
        bar(2, 2)

    assert capsys.readouterr().err == ""


def test_a_long_check_writes_plain_lines_into_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    """Six seconds a round: a line when ten have gone by, and a log gets no control characters."""
    times = iter(range(0, 600, 6))
    with Bar(Console(stderr=True, force_terminal=False), clock=lambda: float(next(times))) as bar:
        for done in range(5):
            bar(done, 4)

    assert capsys.readouterr().err == "recomputing rounds: 2 of 4, about 12 s left\n"
