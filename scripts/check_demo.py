"""Check that demos reached what the README says: python scripts/check_demo.py RUN [...]

For each run directory of a demo: federated DP within its budget, far from the base model's loss, and right at least 1.3
times as often as the most frequent answer would be.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

LARGEST_LOSS = {"demo": 0.6, "demo-minilm": 0.95}
"""Part of the base model's loss; an encoder's new head begins near the loss of guessing, so it has less to lose."""
SMALLEST_GAIN = 1.3


def shortfalls(facts: dict[str, Any]) -> list[str]:
    """List what a demo missed."""
    arms = {arm["name"]: arm for arm in facts["arms"]}
    base, ours = arms["base model"], arms["federated, DP"]
    kind = Path(facts["run"]).name.rsplit("-", 2)[0]
    found = []
    if ours["loss"] >= LARGEST_LOSS[kind] * base["loss"]:
        found.append(f"loss {ours['loss']:.3f} of {base['loss']:.3f}")
    if ours["exact"] < SMALLEST_GAIN * facts["majority"]:
        found.append(f"exact {ours['exact']:.3f}, most frequent answer {facts['majority']:.3f}")
    if not facts["epsilon"] <= 8:
        found.append(f"epsilon {facts['epsilon']}")
    return found


def main() -> int:
    """Check every named run."""
    failed = False
    for name in sys.argv[1:]:
        facts = json.loads((Path(name) / "demo.json").read_text())
        missed = shortfalls(facts)
        print(f"{name}: {'; '.join(missed) or 'reached its targets'} in {facts['seconds']:.0f} s")
        failed = failed or bool(missed)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
