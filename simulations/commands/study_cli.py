"""`partsong study` on the command line; what it does is in `partsong.simulations.studies.command`."""

# ruff: noqa: FBT002, PLC0415  # switches are how typer spells options; a command imports what it needs

from __future__ import annotations

import json
from typing import Annotated, Literal

import typer
from rich.console import Console

Name = Literal["banking77", "medquad", "privacy", "bytes", "ranks", "generation", "poisoning"]


def study(
    name: Annotated[Name, typer.Argument(help="What to compare; docs/studies.md says what each one asks.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]...", help="data_dir=FOLDER, grid=full|cpu|smoke, hours=..., only=[...], ..."
        ),
    ] = None,  # one line of help
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")] = False,
) -> None:
    """Compare methods on public data and write a dated page; the same command goes on after a stop."""
    from partsong.simulations.studies.settings import ENCODER, LANGUAGE_MODEL, compose_study

    # Before torch is imported, so that a typing error is answered at once.
    config = compose_study(overrides or [], base=LANGUAGE_MODEL if name == "generation" else ENCODER)
    from partsong.simulations.generation import command as generation
    from partsong.simulations.poisoning import command as poisoning
    from partsong.simulations.studies import command

    console = Console(stderr=True)
    alone = {"generation": generation.study, "poisoning": poisoning.study}
    facts = alone[name](config, console=console) if name in alone else command.study(name, config, console=console)
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
        return
    typer.echo(f"{facts['cells'] - facts['empty']} of {facts['cells']} cells done, {facts['failed']} failed")
    typer.echo(facts["page"])
