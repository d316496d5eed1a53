"""`partsong coordinator run`: the one command of the coordinator that needs the base model and Hydra."""

# ruff: noqa: FBT002, PLC0415, PLR0917  # switches are how typer spells options; a command imports what it needs: --help is quick

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

if TYPE_CHECKING:
    from partsong.common.control.client import CoordinatorClient
    from partsong.common.control.surfaces import RunStatus

_LOOK_S = 1.0
_ANSWER_S = 120.0
"""For one call: the daemon copies the job to its disk before it answers, and nobody is to believe that it did not."""
_OPEN = ("waiting", "running")


def register(coordinator: typer.Typer) -> None:
    """Add the command to `partsong coordinator`."""
    coordinator.command()(run)


def run(
    study: Annotated[str, typer.Argument(metavar="STUDY", help="Name of the study; left out with --canary.")] = "",
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Hydra overrides, such as rounds=10 privacy.epsilon=4."),
    ] = None,  # one line of help
    folder: Annotated[Path, typer.Option("--dir", metavar="DIR", help="The coordinator's directory.")] = Path(),
    job: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Hand in this job instead of making one: no model is loaded.")
    ] = None,  # one line of help
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Write the job here and stop, for a coordinator elsewhere.")
    ] = None,  # one line of help
    canary: Annotated[
        bool,
        typer.Option("--canary", help="Try the way: one masked round of known numbers, without model and records."),
    ] = False,  # one line of help
    wait: Annotated[bool, typer.Option("--wait", help="Until it ends; exit code 1 unless all went as asked.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")] = False,
) -> None:
    """Ask the sites for a run. The base model is loaded here once; the daemon does the rest."""
    from partsong.common.control.client import CoordinatorClient
    from partsong.server.membership.home import CoordinatorHome

    if job is not None and (overrides or canary or out is not None):
        raise typer.BadParameter("a job that was made has its settings: give --job alone", param_hint="--job")
    if not (study or canary):
        raise typer.BadParameter("name the study, or try the way with --canary", param_hint="STUDY")
    with tempfile.TemporaryDirectory(prefix="partsong-job-") as scratch:
        place = out or Path(scratch) / "job"
        if canary:
            made = _canary([study, *(overrides or [])] if study else [], place)
        else:
            made = job or _made(study, overrides or [], folder, place)
        if out is not None:
            typer.echo(str(out))
            return
        with CoordinatorClient(CoordinatorHome(folder).socket, deadline_s=_ANSWER_S) as client:
            typer.echo("handing the job to the coordinator's daemon", err=True)
            begun = client.run(made.absolute())
            ended = _ended(client, begun, say=lambda text: typer.echo(text, err=True)) if wait else begun
    _show(ended, folder, as_json=as_json)
    if wait and (ended.state != "finished" or ended.reason):
        raise typer.Exit(1)


def _made(study: str, overrides: list[str], folder: Path, out: Path) -> Path:
    from partsong.simulations.configure import compose_job

    # Before torch is imported, so that a typing error is answered at once.
    config = compose_job(study, overrides)
    from partsong.simulations.commands.doing import Doing

    with Doing(Console(stderr=True)) as say:
        say(f"reading the base model {config.model.source}")
        from partsong.server.daemon.job import write_job
        from partsong.server.membership.home import CoordinatorHome
        from partsong.simulations.commands.ask import charter_of, make_job

        made = make_job(config, charter=charter_of(folder), runs=CoordinatorHome(folder).runs, say=say)
        say(f"base model {made.base.name}, sha256 {made.base.sha256}; writing the job")
        write_job(out, made)
    return out


def _canary(overrides: list[str], out: Path) -> Path:
    """Write a canary; where STUDY would stand is the first of its settings."""
    from partsong.server.daemon.canary_job import CanaryJob
    from partsong.simulations.configure import compose_canary

    CanaryJob(config=compose_canary(overrides)).write(out)
    return out


def _ended(client: CoordinatorClient, begun: RunStatus, *, say: Callable[[str], None]) -> RunStatus:
    """Look at a run until it is over; say what it waits for, and where it is, whenever that changes."""
    from partsong.simulations.commands.outlook import Outlook

    found, outlook = begun, Outlook(clock=time.monotonic)
    while found.state in _OPEN:
        if line := outlook.line(found):
            say(line)
        time.sleep(_LOOK_S)
        found = next(run for run in client.runs() if run.run == begun.run)
    return found


def _show(found: RunStatus, folder: Path, *, as_json: bool) -> None:
    from partsong.common.build import to_tree
    from partsong.server.daemon.deployed_run import find_run
    from partsong.server.daemon.explain import contributions
    from partsong.server.membership.home import CoordinatorHome
    from partsong.server.questions.signed import ANSWER

    deployed = find_run(CoordinatorHome(folder).runs, found.run)
    rounds, answer = contributions(deployed), deployed.path / ANSWER
    if as_json:
        tree: dict[str, Any] = {**to_tree(found), "path": str(deployed.path), "contributions": rounds}
        tree |= {"answer": json.loads(answer.read_text())} if answer.exists() else {}
        typer.echo(json.dumps(tree, indent=2))
        return
    typer.echo("\n".join([f"{found.run}: {found.state}{f', {found.reason}' if found.reason else ''}", *rounds]))
    if answer.exists():
        typer.echo(deployed.report.read_text(), nl=False)
