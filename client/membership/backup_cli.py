"""`partsong site backup` and `restore`."""

# ruff: noqa: FBT002, PLC0415  # switches are how typer spells options; a command imports what it needs: --help is quick

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")]
Dir = Annotated[Path, typer.Option("--dir", metavar="DIR", help="The site's directory.")]
HERE = Path()


def register(app: typer.Typer) -> None:
    """Add the commands to `partsong site`."""
    app.command()(backup)
    app.command()(restore)


def backup(
    out: Annotated[Path, typer.Argument(metavar="FILE", help="A new file, for this machine's owner alone.")],
    folder: Dir = HERE,
    as_json: Json = False,
) -> None:
    """Copy what may be copied of the stopped site's directory into one file; vault, ledger and plans never are.

    What the ledger says was spent goes along, and a restored site goes on with the budget that is left.
    """
    from partsong.client.home.layout import SiteHome
    from partsong.client.membership.backup import back_up
    from partsong.common.backup import told

    contents = back_up(SiteHome(folder), out, now_ms=int(time.time() * 1000))
    words = (
        "not in it: vault, ledger and plans; what was spent until now is. For what is spent from now on, keep newer\n"
        "exports beside it: `partsong site ledger export --out FILE`"
    )
    typer.echo(told(contents, out, words, as_json=as_json))


def restore(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="As `backup` wrote it.")],
    folder: Dir = HERE,
    as_json: Json = False,
) -> None:
    """Make a lost site's directory anew: identity, rules, charters, adapters, and what the ledger had spent by then."""
    from partsong.client.home.layout import SiteHome
    from partsong.client.home.ledger import open_ledger
    from partsong.client.membership.backup import restore as make
    from partsong.common.backup import told

    home = SiteHome(folder)
    contents = make(file, home)
    open_ledger(home).close()
    words = (
        "the new ledger begins with what was spent when the backup was made (`partsong site ledger show`).\n"
        "What was spent since: `partsong site ledger carry EXPORT` with the newest export, or, if there is none,\n"
        "a lower epsilon of each holding in policy.yaml. Then `partsong site new-vault`, and `partsong site up`"
    )
    typer.echo(told(contents, folder, words, as_json=as_json))
