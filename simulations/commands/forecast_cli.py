"""The command `partsong forecast`."""

# ruff: noqa: FBT002, PLC0415  # switches are how typer spells options; a command imports what it needs

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console


def forecast(
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="As for simulate: the planned run.")
    ] = None,  # one line of help
    compare: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="Forecast the run in this directory instead, and show the error."),
    ] = None,  # one line of help
    records: Annotated[
        Literal["private", "public", "synthetic"],
        typer.Option(help="What data.path holds. private: refused. Built-in datasets are public."),
    ] = "private",  # one line of help
    rounds: Annotated[int, typer.Option(min=2, help="Rounds to play.")] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")] = False,
) -> None:
    """Predict epsilon, bytes, time, memory and loss of a planned run from its first rounds on public text."""
    if compare is not None and overrides:
        raise typer.BadParameter("a run keeps its configuration: give --compare alone", param_hint="KEY=VALUE")
    from partsong.simulations.configure import compose_simulation
    from partsong.simulations.forecast.records import require_public
    from partsong.simulations.run_dir import RunDir

    config = compose_simulation(overrides or []) if compare is None else RunDir.reopen(compare)[1]
    require_public(config, declared=records)
    from partsong.simulations.display import display_for
    from partsong.simulations.forecast import compare as comparing
    from partsong.simulations.forecast import forecast as forecasting
    from partsong.simulations.own_tests import budget_of

    console = Console(stderr=True)
    console.print(f"playing up to {rounds} of {config.rounds} rounds", highlight=False)
    budget = budget_of(config) if config.privacy.mode == "dp" else None
    with display_for(console, title="forecast", budget=budget, unit=config.privacy.unit) as display:
        found = forecasting.forecast(config, rounds=rounds, listen=display)
    beside = () if compare is None else comparing.compare(found, compare)
    facts: dict[str, Any] = dataclasses.asdict(found)
    if compare is not None:
        facts["compared"] = [dataclasses.asdict(line) | {"error": line.error} for line in beside]
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
        return
    for name, value in facts.items():
        if name != "compared":
            typer.echo(f"{name}: {_shown(value)}")
    for line in beside:
        error = "unknown" if line.error is None else f"{line.error:+.1%}"
        typer.echo(f"{line.name}: forecast {_shown(line.forecast)}, real {_shown(line.real)}, error {error}")


def _shown(value: Any) -> str:
    if value is None:
        return "unknown"
    if isinstance(value, tuple):
        return " to ".join(map(_shown, value))
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
