"""The operator's commands about the running daemon: `partsong site status|pause|resume`."""

# ruff: noqa: FBT002, PLC0415  # switches are how typer spells options; a command imports what it needs: --help is quick

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from partsong.common.control.client import SiteClient
    from partsong.common.control.surfaces import SiteStatus

Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")]
Dir = Annotated[Path, typer.Option("--dir", metavar="DIR", help="The site's directory.")]
HERE = Path()


def register(site: typer.Typer) -> None:
    """Add the commands to `partsong site`."""
    for command in (status, pause, resume):
        site.command()(command)


def status(
    folder: Dir = HERE,
    watch: Annotated[bool, typer.Option("--watch", help="Then show what happens, until the daemon stops.")] = False,
    as_json: Json = False,
) -> None:
    """Show where the daemon stands, what it waits for and what was spent."""
    from partsong.common.control.words import site_words

    with _daemon(folder) as daemon:
        found, plans, ledger = daemon.status(), daemon.plans(), daemon.ledger()
        tree = _tree(found) | {"plans": _plain(plans), "ledger": _plain(ledger)}
        _print(tree, site_words(found, plans, ledger), as_json=as_json, on_one_line=watch)
        if watch:
            _watch(daemon, as_json=as_json)


def pause(folder: Dir = HERE, as_json: Json = False) -> None:
    """Take no new query until `resume`; what is being answered is finished."""
    with _daemon(folder) as daemon:
        found = daemon.pause()
    _print(_tree(found), f"{found.state}: no new query is taken until `partsong site resume`", as_json=as_json)


def resume(folder: Dir = HERE, as_json: Json = False) -> None:
    """Take queries again."""
    with _daemon(folder) as daemon:
        found = daemon.resume()
    _print(_tree(found), found.state, as_json=as_json)


def _daemon(folder: Path) -> SiteClient:
    from partsong.client.home import SiteHome
    from partsong.common.control.client import SiteClient

    return SiteClient(SiteHome(folder).socket)


def _watch(daemon: SiteClient, *, as_json: bool) -> None:
    from rich.console import Console

    from partsong.common.control.watching import event_json, show_events

    if not as_json:
        show_events(daemon.watch(), console=Console())
        return
    for event in daemon.watch():
        typer.echo(event_json(event))


def _tree(found: SiteStatus) -> dict[str, Any]:
    return {**_plain(found), "ready": found.ready}


def _plain(value: object) -> Any:
    from partsong.common.build import to_tree

    return to_tree(value)


def _print(tree: Mapping[str, Any], words: str, *, as_json: bool, on_one_line: bool = False) -> None:
    """Print one result; on one line where more objects follow."""
    indent = None if on_one_line else 2
    typer.echo(json.dumps(tree, indent=indent, ensure_ascii=False, allow_nan=False) if as_json else words)
