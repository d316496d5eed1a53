"""A forecast beside the run that was made of the same configuration."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from partsong.common.errors import DataError
from partsong.simulations.forecast.forecast import Forecast
from partsong.simulations.resources import kept_resources


@dataclass(frozen=True, kw_only=True, slots=True)
class Compared:
    """One figure."""

    name: str
    forecast: float | None
    real: float | None
    """None: the run did not note it."""

    @property
    def error(self) -> float | None:
        """Forecast over real, minus one; None where one of them is missing or the real one is zero."""
        if self.forecast is None or not self.real:
            return None
        return self.forecast / self.real - 1


def compare(found: Forecast, run: Path) -> tuple[Compared, ...]:
    """Hold a forecast against a finished run.

    Args:
        found: for the configuration of the run.
        run: its directory.
    Raises:
        DataError: the run is not finished.
    """
    history = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    if len(history) != found.rounds:
        raise DataError(
            str(run), found=f"{len(history)} rounds", expected=f"{found.rounds}, a finished run of this configuration"
        )
    taken = kept_resources(run)
    rounds_s = sorted(entry["seconds"] for entry in history)
    return (
        Compared(name="epsilon", forecast=found.epsilon, real=history[-1]["epsilon"]),
        Compared(
            name="bytes_out",
            forecast=float(found.bytes_out),
            real=float(sum(sum(entry["bytes_out"].values()) for entry in history)),
        ),
        Compared(name="round_s", forecast=found.round_s, real=rounds_s[len(rounds_s) // 2]),
        Compared(name="wall_s", forecast=found.wall_s, real=None if taken is None else taken.wall_s),
        Compared(name="peak_mb", forecast=found.peak_mb, real=None if taken is None else taken.peak_mb),
        *_utility(found, history),
    )


def _utility(found: Forecast, history: list[dict[str, object]]) -> tuple[Compared, ...]:
    last = history[-1].get("held_out")
    if found.held_out_loss is None or not isinstance(last, dict):
        return ()
    low, high = found.held_out_loss
    return (
        Compared(name="held_out_loss_low", forecast=low, real=float(last["loss"])),
        Compared(name="held_out_loss_high", forecast=high, real=float(last["loss"])),
    )
