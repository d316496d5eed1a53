"""A study that is killed goes on with the cell that it was playing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TINY = Path(__file__).parents[2] / "fixtures" / "tiny-bert"


def command(folder: Path) -> list[str]:
    settings = [f"base={TINY}", "grid=smoke", "threads=1", f"work_dir={folder / 'work'}", f"out={folder / 'pages'}"]
    return [sys.executable, "-P", "-m", "partsong", "study", "medquad", *settings, "--json"]


@pytest.mark.nightly
def test_kill_9_loses_one_cell(tmp_path: Path) -> None:
    """What was finished keeps its bytes; the second process plays the rest, and only that."""
    cells = tmp_path / "work" / "medquad" / "smoke"
    started = subprocess.Popen(command(tmp_path), stderr=subprocess.PIPE, text=True, env=dict(os.environ))
    assert started.stderr is not None
    finished = 0
    while finished < 3:
        line = started.stderr.readline()
        assert line, "it ended before three cells were done"
        finished += " left, " in line

    started.kill()
    started.communicate()
    kept = {file.name: file.read_bytes() for file in cells.glob("[!.]*.json")}
    again = subprocess.run(command(tmp_path), capture_output=True, text=True, check=True, env=dict(os.environ))

    facts = json.loads(again.stdout)
    assert (facts["cells"], facts["empty"]) == (14, 0)
    assert 3 <= len(kept) < 14
    assert f"{14 - len(kept)} cells to run" in again.stderr
    assert all((cells / name).read_bytes() == content for name, content in kept.items())
