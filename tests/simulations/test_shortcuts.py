"""A simulation leaves out what nobody relies on; a daemon leaves out nothing."""

import ast
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import partsong
from partsong.client.budget.chain import Chain
from partsong.common.files import append_line, disk_is_awaited, read_lines, write_json
from partsong.simulations.shortcuts import shortcuts

PACKAGE = Path(partsong.__file__).parent
ONLY_IN_SIMULATIONS = {"disk_not_awaited", "hashed_once"}


def _written(folder: Path) -> list[str]:
    """Write in every way that waits for the disk, and tell the ledger's setting."""
    append_line(folder / "lines.jsonl", {"round": 1})
    write_json(folder / "facts.json", {"round": 1})
    chain = Chain(folder / "ledger.sqlite")
    (level,) = chain._db.execute("PRAGMA synchronous").fetchone()
    chain.close()
    return ["awaited" if level else "not awaited"]


def test_a_simulation_does_not_wait_for_the_disk_and_a_daemon_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither lines, nor whole files, nor ledgers; afterwards all of them again."""
    synced, real = list[int](), os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: (synced.append(handle), real(handle))[1])
    for name in ("simulated", "real"):
        (tmp_path / name).mkdir()

    with shortcuts():
        simulated, synced_simulated = _written(tmp_path / "simulated"), len(synced)
    real_one = _written(tmp_path / "real")

    assert (simulated, synced_simulated) == (["not awaited"], 0)
    assert real_one == ["awaited"]
    assert len(synced) >= 4
    assert disk_is_awaited()
    assert [f.read_bytes() for f in sorted((tmp_path / "simulated").glob("*.json*"))] == [
        f.read_bytes() for f in sorted((tmp_path / "real").glob("*.json*"))
    ]


def test_what_a_killed_simulation_has_written_is_there(tmp_path: Path) -> None:
    """Lines and ledger entries outlive SIGKILL, which is all that resuming a simulation counts on."""
    program = """
        import os, signal, sys
        from pathlib import Path
        from partsong.client.budget.ledger import Ledger
        from partsong.common.files import append_line
        from partsong.simulations.shortcuts import shortcuts
        folder = Path(sys.argv[1])
        with shortcuts():
            ledger = Ledger(folder / "ledger.sqlite")
            for i in range(20):
                ledger.set_ceiling(f"holding-{i}", epsilon=1.0, delta=1e-6)
                append_line(folder / "lines.jsonl", i)
            os.kill(os.getpid(), signal.SIGKILL)
    """

    done = subprocess.run([sys.executable, "-P", "-c", textwrap.dedent(program), str(tmp_path)], check=False)

    chain = Chain(tmp_path / "ledger.sqlite")
    entries = chain.entries()
    chain.close()
    assert done.returncode == -signal.SIGKILL
    assert [entry.kind for entry in entries] == ["opened", *["ceiling"] * 20]
    assert read_lines(tmp_path / "lines.jsonl") == list(range(20))


def test_nothing_but_simulations_takes_shortcuts() -> None:
    """Neither a site's daemon nor the coordinator's names what weakens them; the definitions do."""
    found = {
        str(file.relative_to(PACKAGE))
        for folder in ("client", "common", "server", "simulations")
        for file in (PACKAGE / folder).rglob("*.py")
        if ONLY_IN_SIMULATIONS & {n.id for n in ast.walk(ast.parse(file.read_bytes())) if isinstance(n, ast.Name)}
    }

    assert found == {"simulations/shortcuts.py"}
