"""Run every command that the documents show: python scripts/doc_commands.py [--beside FOLDER] FILE.md [...]

Commands are the lines that begin with `$ ` in blocks marked `console`. They run from the repository's root, in order,
each document in one folder of its own for files it makes. A command that fails, or a line of shown output marked with
`(shown)` that is not printed, stops with exit code 1. `RUN` in a command is the newest run directory. The deployment
page's numbered steps need several machines: `loopback_deploy.py` plays them.

With `--beside` they run in a folder of links to all that the repository has, with runs of its own: two such calls at a
time do not take each other's newest run.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import loopback_deploy

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"^```console\n(.*?)^```", re.MULTILINE | re.DOTALL)
SKIP = re.compile(r"^(git clone|cd )")
"""Getting the repository is what CI has done already."""
MADE = {"runs", "build", "dist"}
"""Folders that commands write to."""


def commands(text: str) -> list[str]:
    """List the commands of a document, in order."""
    lines = (line for block in BLOCK.findall(text) for line in block.splitlines())
    return [line[2:] for line in lines if line.startswith("$ ") and not SKIP.match(line[2:])]


def newest_run(folder: Path) -> str:
    """Find the run directory that was made last."""
    runs = [p for p in (folder / "runs").glob("*") if (p / "config.yaml").exists()]
    return str(max(runs, key=lambda p: p.stat().st_mtime).relative_to(folder)) if runs else "RUN"


def linked(folder: Path) -> Path:
    """Make a folder with a link to each thing in the repository but what commands write to."""
    folder.mkdir(parents=True, exist_ok=True)
    for there in ROOT.iterdir():
        if there.name not in MADE and not (folder / there.name).is_symlink():
            (folder / there.name).symlink_to(there)
    return folder


def main() -> int:
    """Run what the named documents show."""
    parser = argparse.ArgumentParser()
    parser.add_argument("documents", nargs="+")
    parser.add_argument("--beside", type=Path)
    asked = parser.parse_args()
    folder = ROOT if asked.beside is None else linked(asked.beside.resolve())
    path = f"{ROOT / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}"
    done = 0
    for name in asked.documents:
        for shown in commands(Path(name).read_text()):
            command = re.sub(r"\bRUN\b", newest_run(folder), shown)
            print(f"{name}: {command}", flush=True)
            # The documents are this repository's own files, so a shell may run what they say.
            begun_s = time.monotonic()
            ended = subprocess.run(command, shell=True, cwd=folder, env={**os.environ, "PATH": path}, check=False)  # noqa: S602
            if ended.returncode != 0:
                print(f"{name}: exit code {ended.returncode} from: {command}", file=sys.stderr)
                return 1
            print(f"took {time.monotonic() - begun_s:.0f} s", flush=True)
            done += 1
        if Path(name).resolve() == loopback_deploy.PAGE and loopback_deploy.main() != 0:
            return 1
    print(f"{done} documented commands ran")
    return 0


if __name__ == "__main__":
    sys.exit(main())
