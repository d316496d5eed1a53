"""Lock what is installed, by hash: python scripts/lock.py [--upgrade | --check]

Writes `requirements/SET.txt` for each set, from `pyproject.toml`, for every supported Python on Linux and macOS. What
is locked already stays as it is; `--upgrade` takes the newest. `--check` writes nothing, needs no network, and exits
with 1 where a file does not satisfy `pyproject.toml` any more or has a line without a hash. `requirements/cpu.txt` is
`core.txt` without torch and the GPU libraries that its usual build brings; see docs/releasing.md.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "requirements"
SETS: dict[str, tuple[str, ...]] = {"core": (), "gpu": ("gpu",), "dev": ("dev",)}
"""Extras of each set."""
CPU = "cpu"
GPU_ONLY = re.compile(r"(torch|triton|nvidia-.*|cuda-.*)")
"""Packages of `core` that a machine without a GPU does not need, or has in another build."""
PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;]+)([^\n]*(?:\n {4}--hash=[^\n]*)*)", re.MULTILINE)
HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}\b")


def main() -> int:
    """Lock or check, and return an exit code."""
    if sys.argv[1:] == ["--check"]:
        wrong = [line for name in SETS for line in problems(name)]
        if (FOLDER / f"{CPU}.txt").read_text() != without_gpu():
            wrong.append(f"{CPU}: found another set than core.txt without GPU libraries; run `make lock`")
        print("\n".join(wrong) or f"{len(SETS) + 1} requirement sets satisfy pyproject.toml", file=sys.stderr)
        return 1 if wrong else 0
    FOLDER.mkdir(exist_ok=True)
    for name, extras in SETS.items():
        lock(name, extras, more=sys.argv[1:])
    (FOLDER / f"{CPU}.txt").write_text(without_gpu())
    return 0


def without_gpu() -> str:
    """Give `core` without the packages that torch for a GPU is made of."""
    (torch,) = (version for version, _ in pins("core")["torch"])
    kept = [pin[0] for pin in PIN.finditer((FOLDER / "core.txt").read_text()) if not GPU_ONLY.fullmatch(pin[1])]
    return (
        "# The set `core` for machines without a GPU, with the hash of every file; scripts/lock.py makes it.\n"
        f"# torch {torch} for CPU is installed first, from where you take it: docs/releasing.md\n"
        "# pip install --require-hashes --no-deps -r requirements/cpu.txt\n" + "\n".join(kept) + "\n"
    )


def lock(name: str, extras: tuple[str, ...], *, more: list[str]) -> None:
    """Let uv resolve a set and write it."""
    file = FOLDER / f"{name}.txt"
    command = [sys.executable, "-m", "uv", "pip", "compile", "pyproject.toml", "--output-file", str(file)]
    command += [word for extra in extras for word in ("--extra", extra)]
    command += ["--universal", "--python-version", "3.11", "--generate-hashes", "--no-emit-index-url", "--quiet"]
    command += ["--no-annotate", "--no-header", *more]
    subprocess.run(command, cwd=ROOT, check=True)
    file.write_text(head(name) + file.read_text())
    print(f"{file.relative_to(ROOT)}: {len(pins(name))} packages", file=sys.stderr)


def head(name: str) -> str:
    """Say what a file is."""
    return (
        f"# The set `{name}`, with the hash of every file that may be installed; scripts/lock.py makes it.\n"
        f"# pip install --require-hashes -r requirements/{name}.txt\n"
    )


def problems(name: str) -> Iterator[str]:
    """List what is wrong with the file of a set."""
    text, found = (FOLDER / f"{name}.txt").read_text(), pins(name)
    if not text.startswith(head(name)) or "://" in text:
        yield f"{name}: found another head, or an address, expected what scripts/lock.py writes"
    for package, versions in found.items():
        if not all(hashes for _, hashes in versions):
            yield f"{name}: found {package} without a hash, expected one for each file"
    for wanted in declared(SETS[name]):
        versions = found.get(canonicalize_name(wanted.name), [])
        if not versions or not all(wanted.specifier.contains(v, prereleases=True) for v, _ in versions):
            yield f"{name}: found {[v for v, _ in versions]}, expected {wanted}; run `make lock`"


def pins(name: str) -> dict[str, list[tuple[str, int]]]:
    """Read a file: for each package its versions (one for each marker) and how many hashes each has."""
    found: dict[str, list[tuple[str, int]]] = {}
    for package, version, rest in PIN.findall((FOLDER / f"{name}.txt").read_text()):
        found.setdefault(canonicalize_name(package), []).append((version, len(HASH.findall(rest))))
    return found


def declared(extras: tuple[str, ...]) -> list[Requirement]:
    """List what `pyproject.toml` asks for, with these extras and those that they name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = list(project["dependencies"])
    todo = list(extras)
    while todo:
        for line in project["optional-dependencies"][todo.pop()]:
            wanted = Requirement(line)
            if wanted.name == project["name"]:
                todo += sorted(wanted.extras)
            else:
                lines.append(line)
    return [Requirement(line) for line in lines]


if __name__ == "__main__":
    sys.exit(main())
