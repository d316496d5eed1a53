"""Make the Python of common/control.proto: python scripts/generate_control.py [--check]

`--check` writes nothing and exits with 1 where the files are not what the compiler makes of the .proto. It needs
grpcio-tools of the version in `COMPILER`, so that everybody gets the same bytes.
"""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "common"
TARGET = ROOT / "common" / "control"
PACKAGE = "partsong/common/control"
FILES = ("control_pb2.py", "control_pb2.pyi", "control_pb2_grpc.py")
COMPILER = "1.81"


def generate() -> dict[str, str]:
    """Run the compiler in a folder of its own; give the files it made."""
    with tempfile.TemporaryDirectory() as folder:
        # The .proto is shown to the compiler at the place of its Python, so that the generated imports are absolute.
        command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{PACKAGE}={SOURCE}"]
        command += [f"--{kind}_out={folder}" for kind in ("python", "pyi", "grpc_python")]
        subprocess.run([*command, f"{PACKAGE}/control.proto"], check=True)
        return {name: (Path(folder) / PACKAGE / name).read_text() for name in FILES}


def main() -> int:
    """Write the files, or say which differ."""
    found = importlib.metadata.version("grpcio-tools")
    if not found.startswith(f"{COMPILER}."):
        print(f"grpcio-tools: found {found}, expected {COMPILER}.*; nothing was made", file=sys.stderr)
        return 1
    made = generate()
    if "--check" not in sys.argv[1:]:
        for name, text in made.items():
            (TARGET / name).write_text(text)
        return 0
    stale = [name for name, text in made.items() if (TARGET / name).read_text() != text]
    if stale:
        print(f"not what common/control.proto says: {', '.join(stale)}; run scripts/generate_control.py")
    return bool(stale)


if __name__ == "__main__":
    sys.exit(main())
