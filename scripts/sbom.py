"""Write a CycloneDX bill of materials of the locked core set: python scripts/sbom.py FILE

The same requirements give the same bytes: no time, no random serial number, nothing of this machine.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SPEC = "1.6"


def main() -> int:
    """Write the bill and return an exit code."""
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    out = Path(sys.argv[1])
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        raw = Path(scratch) / "raw.json"
        command = [sys.executable, "-m", "cyclonedx_py", "requirements", "--pyproject", "pyproject.toml"]
        command += ["--mc-type", "application", "--output-reproducible", "--spec-version", SPEC]
        command += ["--output-format", "JSON", "--output-file", str(raw), "requirements/core.txt"]
        subprocess.run(command, cwd=ROOT, check=True)
        bill = json.loads(raw.read_text())
    out.write_text(json.dumps(bill, indent=2, sort_keys=True) + "\n")
    print(f"{out}: {len(bill['components'])} components", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
