"""`partsong coordinator backup` and `restore`."""

# ruff: noqa: FBT002, PLC0415  # switches are how typer spells options; a command imports what it needs: --help is quick

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")]
Dir = Annotated[Path, typer.Option("--dir", metavar="DIR", help="The coordinator's directory.")]
HERE = Path()


def register(app: typer.Typer) -> None:
    """Add the commands to `partsong coordinator`."""
    app.command()(backup)
    app.command()(restore)


def backup(
    out: Annotated[Path, typer.Argument(metavar="FILE", help="A new file, for this machine's owner alone.")],
    folder: Dir = HERE,
    as_json: Json = False,
) -> None:
    """Copy the stopped coordinator's directory into one file: keys under the passphrase, charters, runs."""
    from partsong.common.backup import told
    from partsong.server.membership.backup import back_up
    from partsong.server.membership.home import CoordinatorHome

    contents = back_up(CoordinatorHome(folder), out, now_ms=int(time.time() * 1000))
    typer.echo(told(contents, out, f"keep {out} as you keep the directory itself", as_json=as_json))


def restore(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="As `backup` wrote it.")],
    folder: Dir = HERE,
    as_json: Json = False,
) -> None:
    """Make the directory anew, on this machine or another. Two coordinators must never run on copies of one."""
    from partsong.common.backup import told
    from partsong.server.membership.backup import restore as make
    from partsong.server.membership.home import CoordinatorHome

    contents = make(file, CoordinatorHome(folder))
    words = (
        "make sure that no daemon runs on the directory it was copied from, then `partsong coordinator up`; under "
        "another name: `partsong coordinator renew --name HOST`"
    )
    typer.echo(told(contents, folder, words, as_json=as_json))
