"""The operator's commands for what a site keeps: `partsong site adapters ...` and `partsong site purge`."""

# ruff: noqa: FBT002, PLC0415  # switches are how typer spells options; a command imports what it needs: --help is quick

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

adapters = typer.Typer(name="adapters", no_args_is_help=True, help="The finished adapters of this site.")

Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")]
Dir = Annotated[Path, typer.Option("--dir", metavar="DIR", help="The site's directory.")]
Which = Annotated[str, typer.Argument(metavar="[ADAPTER]", help="Its run, or the beginning of its plan's hash.")]
HERE = Path()


def register(site: typer.Typer) -> None:
    """Add the commands to `partsong site`."""
    site.add_typer(adapters)
    site.command()(purge)
    site.command()(compare)


@adapters.command("list")
def list_all(folder: Dir = HERE, as_json: Json = False) -> None:
    """List the adapters that were checked and stored; * is the one in use."""
    store = _store(folder)
    current = store.current()
    trees = [_tree(store, one, current=current) for one in store.all()]
    words = [
        f"{'*' if tree['current'] else ' '} {tree['run']}  plan {tree['plan'][:12]}  {tree['path']}" for tree in trees
    ]
    _print({"adapters": trees}, "\n".join(words) or "no adapter has arrived yet", as_json=as_json)


@adapters.command()
def fetch(
    plan: Annotated[str, typer.Argument(metavar="PLAN", help="Hash of a plan of this site, or its beginning.")],
    folder: Dir = HERE,
    as_json: Json = False,
) -> None:
    """Ask for an adapter again; it arrives with the coordinator's next offer, when this site connects."""
    from partsong.client.daemon.plan_folder import all_plans
    from partsong.common.errors import InputError

    found = [one.plan_sha256 for one in all_plans(_home(folder).plans) if one.plan_sha256.startswith(plan)]
    if len(found) != 1:
        raise InputError("plan", found=f"{len(found)} plans of this site", expected="exactly one")
    _store(folder).want(found[0])
    _print(
        {"wanted": found[0]}, f"asked for {found[0][:12]}; start the daemon again to get it at once", as_json=as_json
    )


@adapters.command()
def verify(which: Which = "", folder: Dir = HERE, as_json: Json = False) -> None:
    """Check an adapter: its files, and its weights against the sums that this site has checked."""
    from partsong.client.adapters import desk as adapter_desk

    store = _store(folder)
    found = store.find(which)
    verdict = adapter_desk.verify(store, found, plans=_home(folder).plans)
    tree = _tree(store, found, current=store.current()) | {"verdict": verdict}
    _print(tree, f"{found.run}: {verdict}", as_json=as_json)


@adapters.command()
def rollback(folder: Dir = HERE, as_json: Json = False) -> None:
    """Point `current` to the adapter before the one in use."""
    store = _store(folder)
    found = store.rollback()
    _print(_tree(store, found, current=found), f"current is now {found.run}", as_json=as_json)


def compare(which: Which = "", folder: Dir = HERE, as_json: Json = False) -> None:
    """Score an adapter on this site's own test records, beside what the site gets alone. Nothing leaves the site."""
    from partsong.client.adapters.comparing import compare_at
    from partsong.common.build import to_tree

    found = compare_at(_home(folder), which, say=lambda text: typer.echo(text, err=True))
    _print({"arms": to_tree(found)}, "\n".join(arm.words for arm in found), as_json=as_json)


def purge(
    keep_days: Annotated[int, typer.Option(min=0, help="Keep plans that ended later; messages stay for 30 days.")] = 30,
    plan: Annotated[
        list[str] | None, typer.Option(metavar="HASH", help="Also this plan, whole hash, although it did not end.")
    ] = None,  # one line of help
    folder: Dir = HERE,
    as_json: Json = False,
) -> None:
    """Erase old messages and what is left of plans that ended; never ledger, vault, keys, decisions or adapters."""
    import time

    from partsong.client.home import purge as purging
    from partsong.client.home.lock import held

    home = _home(folder)
    with held(home.lock):
        done = purging.purge(home, clock=time.time, keep_days=keep_days, also=tuple(plan or ()))
    words = f"erased {done.messages} messages and what was left of {len(done.plans)} plans"
    _print({"messages": done.messages, "plans": list(done.plans)}, words, as_json=as_json)


def _home(folder: Path) -> Any:
    from partsong.client.home.layout import SiteHome
    from partsong.common.errors import InputError

    home = SiteHome(folder)
    if not home.config.is_file():
        raise InputError(
            str(folder), found="no site.yaml in it", expected="the directory of a site", remedy="name it with --dir"
        )
    return home


def _store(folder: Path) -> Any:
    from partsong.client.adapters.store import AdapterStore

    return AdapterStore(_home(folder).adapters)


def _tree(store: Any, adapter: Any, *, current: Any) -> dict[str, Any]:
    from partsong.common.build import to_tree

    return {**to_tree(adapter), "path": str(store.path(adapter)), "current": adapter == current}


def _print(tree: Mapping[str, Any], words: str, *, as_json: bool) -> None:
    typer.echo(json.dumps(tree, indent=2, ensure_ascii=False, allow_nan=False) if as_json else words)
