"""The operator's commands about the daemon: `partsong site up|status|pause|resume|capsules|dashboard`."""

# ruff: noqa: FBT002, PLC0415  # switches are how typer spells options; a command imports what it needs: --help is quick

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from partsong.client.home.layout import SiteHome
    from partsong.common.capsule import Capsule
    from partsong.common.control.client import SiteClient
    from partsong.common.control.surfaces import SiteStatus

Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")]
Dir = Annotated[Path, typer.Option("--dir", metavar="DIR", help="The site's directory.")]
Passphrase = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Holds the passphrase; mode 0600. Else PARTSONG_PASSPHRASE_FILE, systemd's credential, the terminal.",
    ),
]
HERE = Path()


def register(site: typer.Typer) -> None:
    """Add the commands to `partsong site`."""
    for command in (up, status, pause, resume, capsules, dashboard):
        site.command()(command)


def up(
    folder: Dir = HERE,
    passphrase_file: Passphrase = None,
    log: Annotated[Literal["file", "stderr"], typer.Option(help="file: log/daemon.jsonl in the directory.")] = "file",
    log_level: Annotated[Literal["debug", "info", "warning", "error"], typer.Option(help="Lowest level.")] = "info",
    behind_supernode: Annotated[
        bool,
        typer.Option("--behind-supernode", help="A stock Flower SuperNode carries the messages; see docs/flower.md."),
    ] = False,
) -> None:
    """Run the site in the foreground until it is told to end; what was not answered then, the next `up` answers."""
    import getpass
    import os
    import sys

    from partsong.client.daemon.up import serve
    from partsong.client.home.layout import SiteHome
    from partsong.client.home.opened import open_site
    from partsong.common.identity.passphrase import find_passphrase

    def ask(prompt: str) -> str:
        return getpass.getpass(prompt, stream=sys.stderr)

    home = SiteHome(folder.absolute())
    passphrase = find_passphrase(file=passphrase_file, environment=os.environ, ask=ask if sys.stdin.isatty() else None)
    opened = open_site(home, passphrase)
    serve(
        home,
        opened,
        environment=os.environ,
        log_folder=home.log if log == "file" else None,
        level=log_level,
        ready=lambda: typer.echo(f"up: control {home.socket}", err=True),
        behind_supernode=behind_supernode,
    )


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


def capsules(
    capsule: Annotated[
        str | None, typer.Argument(metavar="[CAPSULE]", help="Show this one: its id, or the beginning of it.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write it for the coordinator, where site.yaml allows it.")
    ] = None,
    folder: Dir = HERE,
    as_json: Json = False,
) -> None:
    """List what is left of failures here, or show one. They hold no text of a record and no message of an error."""
    from partsong.client.home.layout import SiteHome
    from partsong.common.capsule import capsule_words
    from partsong.common.capsule_shelf import CapsuleShelf

    home = SiteHome(folder)
    shelf = CapsuleShelf(home.capsules)
    if capsule is None:
        ids = shelf.ids()
        _print({"capsules": list(ids)}, "\n".join(ids) or "nothing has failed", as_json=as_json)
        return
    found = shelf.read(capsule)
    if out is not None:
        _write_released(home, found, out)
    _print(_plain(found) | {"remedy": found.remedy}, capsule_words(found), as_json=as_json)


def dashboard(folder: Dir = HERE, as_json: Json = False) -> None:
    """Print the address of the running daemon's dashboard. It opens everything: tell it to nobody."""
    from partsong.client.home.layout import SiteHome
    from partsong.common.dashboard.keys import read_key
    from partsong.common.dashboard.serving import key_file

    with _daemon(folder) as daemon:
        daemon.status()  # a key that a killed daemon has left opens nothing
    key = read_key(key_file(SiteHome(folder).socket))
    _print({"url": key.url, "port": key.port}, key.url, as_json=as_json)


def _write_released(home: SiteHome, capsule: Capsule, out: Path) -> None:
    """Write a capsule for the coordinator.

    Raises:
        Refused: `capsule_kept`: the site's settings do not let capsules out; nothing was written.
    """
    from partsong.client.home.opened import read_config
    from partsong.common.capsule import release
    from partsong.common.errors import Refused
    from partsong.common.files import write_bytes

    data = release(capsule, config=read_config(home))
    if data is None:
        raise Refused(
            "capsule_kept",
            reason="this site keeps its failures to itself",
            remedy="set release_capsules in site.yaml if they may be told",
        )
    write_bytes(out, data)


def _daemon(folder: Path) -> SiteClient:
    from partsong.client.home.layout import SiteHome
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
