"""The directory of one run at its coordinator: what a deployed run and a simulated one have in common.

plan.json          what the sites agreed to
charter.json       who takes part, signed by all of them
metrics.jsonl      one line a round
opened.jsonl       rounds whose query went out
events.jsonl       what happened, for `partsong explain`; names, counts and released numbers only
checkpoint/        state after each round
coordinator/       the public start, and what is kept of the secure sum
adapter/           the PEFT directory, once the run is finished
facts.json         what the run did, signed by the coordinator
report.txt         for people
rollback.json      round whose adapter is published, if it is not the last
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from partsong.common.build import build, to_tree
from partsong.common.errors import ConfigError, DataError
from partsong.common.files import write_bytes, write_json
from partsong.common.plan import Plan

ROLLBACK = "rollback.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Rollback:
    """What `rollback.json` holds."""

    format: Literal["partsong-rollback"] = "partsong-rollback"
    version: Literal[1] = 1
    round: int
    """Whose adapter is published; 0 is the start."""
    adapter_sha256: str
    """Of the trained part."""
    at_ms: int
    """Milliseconds since 1970."""

    @property
    def mark(self) -> str:
        """Say it where the run says what it does not protect."""
        return f"ROLLED BACK: this is the adapter after round {self.round}, not the last one"


class RunFiles:
    """Paths and files of one run."""

    def __init__(self, path: Path) -> None:
        """Use `path`."""
        self.path = path
        self.adapter, self.report, self.metrics = path / "adapter", path / "report.txt", path / "metrics.jsonl"
        self.plan, self.charter, self.events = path / "plan.json", path / "charter.json", path / "events.jsonl"
        self.coordinator = path / "coordinator"
        self.start = self.coordinator / "start.safetensors"
        self.end = self.coordinator / "end.safetensors"
        """The finished adapter as it was trained, where that is not the form in which it is published."""

    def keep_plan(self, plan: Plan) -> None:
        """Write the plan down, or find that it is the one that was.

        Raises:
            DataError: the directory holds a run of another plan.
        """
        tree = json.loads(json.dumps(to_tree(plan)))
        if not self.plan.exists():
            write_json(self.plan, tree)
        elif json.loads(self.plan.read_text()) != tree:
            raise DataError(
                str(self.plan),
                found="another plan than this model and configuration give now",
                expected="the same one",
                remedy="resume with the model and the versions that began the run (run.json), or start a new run",
            )

    def read_plan(self) -> Plan:
        """Read the plan back.

        Raises:
            DataError: missing or damaged.
        """
        try:
            return build(Plan, json.loads(self.plan.read_bytes()), where="plan.json")
        except (OSError, ValueError, RecursionError, ConfigError) as err:
            raise DataError(
                str(self.plan), found="no plan that can be read", expected="what the sites agreed to"
            ) from err

    def rolled_back_to(self) -> int | None:
        """Give the round whose adapter is published; None: the last.

        Raises:
            DataError: `rollback.json` is damaged.
        """
        rollback = self.rollback()
        return None if rollback is None else rollback.round

    def rollback(self) -> Rollback | None:
        """Read `rollback.json`; None: there is none.

        Raises:
            DataError: it is damaged.
        """
        file = self.path / ROLLBACK
        try:
            return build(Rollback, json.loads(file.read_bytes()), where=ROLLBACK)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError, ConfigError) as err:
            raise DataError(str(file), found="a damaged file", expected="what a rollback wrote") from err

    def rewrite_metrics(self, history: list[dict[str, Any]]) -> None:
        """Make `metrics.jsonl` hold exactly the rounds of `history`; readers see the old file or the new one."""
        lines = (json.dumps(entry, ensure_ascii=False, allow_nan=False) + "\n" for entry in history)
        write_bytes(self.metrics, "".join(lines).encode())
