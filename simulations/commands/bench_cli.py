"""`partsong bench`: what something costs, beside peers where there are some."""

# ruff: noqa: FBT002, PLC0415  # switches are how typer spells options; a command imports what it needs: --help is quick

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

import typer
from rich.console import Console


def bench(
    name: Annotated[
        Literal["aggregate", "dp", "secure-sum", "round", "simulation"], typer.Argument(help="What to measure.")
    ],
    peers_python: Annotated[
        str | None,
        typer.Option(metavar="PATH", help="For simulation: interpreter that has flwr[simulation] and pfl."),
    ] = None,  # one line of help
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")] = False,
) -> None:
    """Measure against peers in one interleaved run; takes minutes. docs/benchmarks.md says what the figures are."""
    import importlib

    from partsong.simulations.bench.progress import shown_on

    if peers_python is not None and name != "simulation":
        raise typer.BadParameter("only simulation runs its peers elsewhere", param_hint="--peers-python")
    console = Console(stderr=True)
    console.print(f"measuring {name}; seconds to half an hour, by machine", highlight=False)
    found = importlib.import_module(f"partsong.simulations.bench.{name.replace('-', '_')}")
    elsewhere = {} if peers_python is None else {"peers_python": peers_python}
    with shown_on(console) as shown:
        measured = found.run(tell=shown, **elsewhere)
    if as_json:
        typer.echo(json.dumps(measured, indent=2))
        return
    for figure in measured["figures"]:
        typer.echo(_line(figure))


def _line(figure: dict[str, Any]) -> str:
    value = "not measured" if figure["value"] is None else f"{figure['value']:.4g} {figure['unit']}"
    verdict = {True: "met", False: "missed", None: "unknown"}[figure["met"]]
    target = "" if figure["target"] is None else f"  target {figure['target']:g}: {verdict}"
    return f"{figure['name']}: {value}{target}"
