"""`partsong site backup` and `restore`."""

# ruff: noqa: FBT002, PLC0415  # switches are how typer spells options; a command imports what it needs: --help is quick

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from partsong.common.backup import Contents

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
    """Copy what may be copied of the stopped site's directory into one file; vault, ledger and plans never are."""
    from partsong.client.home.layout import SiteHome
    from partsong.client.membership.backup import back_up

    contents = back_up(SiteHome(folder), out, now_ms=int(time.time() * 1000))
    words = "not in it: vault, ledger and plans; write `partsong site ledger export` beside it, for what was spent"
    _show(contents, out, words, as_json=as_json)


def restore(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="As `backup` wrote it.")],
    folder: Dir = HERE,
    as_json: Json = False,
) -> None:
    """Make a lost site's directory anew: identity, rules, charters and adapters."""
    from partsong.client.home.layout import SiteHome
    from partsong.client.membership.backup import restore as make

    contents = make(file, SiteHome(folder))
    words = (
        "the ledger is empty: lower each holding's epsilon in policy.yaml by what was spent, as the last export says;\n"
        "then `partsong site new-vault`, and `partsong site up`"
    )
    _show(contents, folder, words, as_json=as_json)


def _show(contents: Contents, where: Path, words: str, *, as_json: bool) -> None:
    tree = {"site": contents.name, "made_ms": contents.made_ms, "files": len(contents.files), "path": str(where)}
    text = f"{contents.name}: {len(contents.files)} files, {where}\n{words}"
    typer.echo(json.dumps(tree, indent=2, ensure_ascii=False) if as_json else text)
