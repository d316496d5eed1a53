"""The coordinator's commands about its daemon and its runs: `partsong coordinator up|status|stop|resume|dashboard`,
and `partsong explain`.
"""

# ruff: noqa: FBT002, PLC0415  # switches are how typer spells options; a command imports what it needs: --help is quick

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from partsong.common.control.client import CoordinatorClient
    from partsong.common.control.surfaces import CoordinatorStatus, RunStatus
    from partsong.server.daemon.explain import Explained

Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")]
Dir = Annotated[Path, typer.Option("--dir", metavar="DIR", help="The coordinator's directory.")]
Name = Annotated[str, typer.Argument(metavar="RUN", help="Name of the run, as `status` shows it.")]
HERE = Path()


def register(coordinator: typer.Typer) -> None:
    """Add the commands to `partsong coordinator`."""
    for command in (up, status, stop, resume, rollback, dashboard):
        coordinator.command()(command)


def up(
    folder: Dir = HERE,
    passphrase_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Holds the passphrase; mode 0600. Else PARTSONG_PASSPHRASE_FILE, ..."),
    ] = None,  # one line of help
) -> None:
    """Run the coordinator in the foreground until it is told to end; what was under way goes on at the next `up`."""
    import os
    import signal
    import threading

    from partsong.common.identity.passphrase import find_passphrase
    from partsong.server.daemon.up import Watching, serve
    from partsong.server.membership.cli import ask_passphrase
    from partsong.server.membership.home import CoordinatorHome
    from partsong.server.membership.opened import open_coordinator

    stop_now = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop_now.set())
    home = CoordinatorHome(folder.absolute())
    passphrase = find_passphrase(file=passphrase_file, environment=os.environ, ask=ask_passphrase())
    watching = Watching(
        stop=stop_now,
        environment=os.environ,
        ready=lambda port: typer.echo(f"ready: port {port}, control {home.socket}", err=True),
    )
    serve(home, open_coordinator(home, passphrase), watching)


def status(folder: Dir = HERE, as_json: Json = False) -> None:
    """Show the daemon, its sites and every run. Without a daemon the runs are read from their files."""
    from partsong.common.build import to_tree
    from partsong.common.control.client import NoDaemon

    try:
        with _daemon(folder) as client:
            daemon, runs = client.status(), client.runs()
    except NoDaemon:
        daemon, runs = None, _from_files(folder)
    tree = {"daemon": None if daemon is None else {**to_tree(daemon), "ready": daemon.ready}, "runs": to_tree(runs)}
    _print(tree, "\n".join([*_daemon_words(daemon), "", *(_run_words(run) for run in runs)]), as_json=as_json)


def stop(run: Name, folder: Dir = HERE, as_json: Json = False) -> None:
    """End a run after the round that is under way. `resume` goes on with it."""
    with _daemon(folder) as client:
        _show(client.stop(run), as_json=as_json)


def resume(run: Name, folder: Dir = HERE, as_json: Json = False) -> None:
    """Go on with a run that was stopped or has failed."""
    with _daemon(folder) as client:
        _show(client.resume(run), as_json=as_json)


def rollback(
    run: Name,
    number: Annotated[int, typer.Argument(metavar="ROUND", help="Round whose adapter is published; 0 is the start.")],
    folder: Dir = HERE,
    passphrase_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Holds the passphrase; mode 0600. Else PARTSONG_PASSPHRASE_FILE, ..."),
    ] = None,  # one line of help
    as_json: Json = False,
) -> None:
    """Publish the adapter after an earlier round of a finished run in place of the last; sites are offered it."""
    import os
    import time

    from partsong.common.identity.passphrase import find_passphrase
    from partsong.server.daemon.deployed_run import find_run
    from partsong.server.daemon.rolling_back import publish_earlier
    from partsong.server.membership.cli import ask_passphrase
    from partsong.server.membership.home import CoordinatorHome
    from partsong.server.membership.opened import open_identity

    home = CoordinatorHome(folder.absolute())
    found = find_run(home.runs, run)
    passphrase = find_passphrase(file=passphrase_file, environment=os.environ, ask=ask_passphrase())
    sha256 = publish_earlier(found, number, signer=open_identity(home, passphrase), now_ms=int(time.time() * 1000))
    tree = {"run": found.name, "round": number, "adapter_sha256": sha256}
    _print(tree, f"{found.name}: the adapter after round {number} is published, sha256 {sha256}", as_json=as_json)


def dashboard(folder: Dir = HERE, as_json: Json = False) -> None:
    """Print the address of the running daemon's dashboard. It opens everything: tell it to nobody."""
    from partsong.common.dashboard.keys import read_key
    from partsong.common.dashboard.serving import key_file
    from partsong.server.membership.home import CoordinatorHome

    with _daemon(folder) as client:
        client.status()  # a key that a killed daemon has left opens nothing
    key = read_key(key_file(CoordinatorHome(folder).socket))
    _print({"url": key.url, "port": key.port}, key.url, as_json=as_json)


def explain(run: Annotated[Path, typer.Argument(help="Directory of a deployed run.")], as_json: Json = False) -> None:
    """Show how each site fared in a run, from its files; the daemon need not run."""
    from partsong.common.build import to_tree
    from partsong.common.errors import DataError
    from partsong.server.daemon import explain as facts
    from partsong.server.daemon.deployed_run import find_run

    path = run.absolute()
    if not (path / "job").is_dir():
        raise DataError(str(run), found="no deployed run in it", expected="a folder below runs/ of a coordinator")
    found = find_run(path.parent, path.name)
    told, sites, rounds = found.told(), facts.explain(found), facts.contributions(found)
    words = [f"{found.name}: {told.state}{f', {told.reason}' if told.reason else ''}", *rounds]
    tree = {"run": found.name, **to_tree(told), "sites": to_tree(sites), "contributions": rounds}
    _print(tree, "\n".join([*words, *map(_site_words, sites)]), as_json=as_json)


def _daemon(folder: Path) -> CoordinatorClient:
    from partsong.common.control.client import CoordinatorClient
    from partsong.server.membership.home import CoordinatorHome

    return CoordinatorClient(CoordinatorHome(folder).socket)


def _from_files(folder: Path) -> tuple[RunStatus, ...]:
    from partsong.server.daemon.deployed_run import all_runs
    from partsong.server.daemon.explain import status_of
    from partsong.server.membership.home import CoordinatorHome

    return tuple(map(status_of, all_runs(CoordinatorHome(folder).runs)))


def _daemon_words(daemon: CoordinatorStatus | None) -> Sequence[str]:
    if daemon is None:
        return ["no daemon runs on this directory; `partsong coordinator up` starts it"]
    away = sorted(set(daemon.members) - set(daemon.connected))
    return [
        f"{daemon.consortium}: {daemon.state}, port {daemon.port}, charter {daemon.charter.version}",
        f"connected: {', '.join(daemon.connected) or 'none'}" + (f"; not connected: {', '.join(away)}" if away else ""),
        *(f"not ready: {check.reason}" for check in daemon.checks if not check.ok),
    ]


def _run_words(run: RunStatus) -> str:
    place = f"round {run.standing.round} of {run.standing.rounds}"
    phase = f", {run.standing.phase}" if run.standing.phase else ""
    return f"{run.run}: {run.state}, {place}{phase}" + (f"; {run.reason}" if run.reason else "")


def _site_words(found: Explained) -> str:
    parts = [f"  {found.site}: {found.state}" + (f" ({found.code})" if found.code else "")]
    parts += [f"in the sums of rounds {', '.join(map(str, found.rounds))}"] if found.rounds else []
    parts += [f"lost in round {number} ({why})" for number, why in found.lost]
    parts += ["found the adapter right"] if found.checked else []
    parts += ["has stored it"] if found.stored else []
    parts += [f"capsule {name}" for name in found.capsules]
    return "; ".join(parts)


def _show(run: RunStatus, *, as_json: bool) -> None:
    from partsong.common.build import to_tree

    _print(to_tree(run), _run_words(run), as_json=as_json)


def _print(tree: Mapping[str, Any], words: str, *, as_json: bool) -> None:
    typer.echo(json.dumps(tree, indent=2, ensure_ascii=False, allow_nan=False) if as_json else words)
