"""`partsong doctor`: every check of a site's or a coordinator's directory, one after the other."""

# ruff: noqa: FBT002, PLC0415  # switches are how typer spells options; a command imports what it needs

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from getpass import getpass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from partsong.common.errors import InputError

if TYPE_CHECKING:
    from partsong.common.doctor.finding import Check

SITE_FILE, COORDINATOR_FILE = "site.yaml", "coordinator.yaml"


def doctor(
    folder: Annotated[
        Path, typer.Option("--dir", metavar="DIR", help="Directory of a site or of a coordinator.")
    ] = Path(),  # one line of help
    passphrase_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Passphrase of the identity; asked for on a terminal.")
    ] = None,
    canary: Annotated[
        bool, typer.Option("--canary", help="At a coordinator: have a canary carried out over the daemons, too.")
    ] = False,  # one line of help
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as one JSON object.")] = False,
) -> None:
    """Check this machine, its way to the coordinator and the files in DIR; exit code 1 where anything failed."""
    from partsong.common.doctor.finding import exit_code, run
    from partsong.simulations.commands import doctor_table

    passphrase = _passphrase(passphrase_file)
    findings = run(checks_of(folder, passphrase=passphrase, environment=os.environ, asks_canary=canary))
    console = Console()
    if as_json:
        done = list(findings)
        typer.echo(json.dumps(doctor_table.to_tree(done), indent=2, ensure_ascii=False))
    else:
        done = (doctor_table.show_table if console.is_terminal else doctor_table.show_lines)(findings, console=console)
    if code := exit_code(done):
        raise typer.Exit(code)


def checks_of(
    folder: Path,
    *,
    passphrase: Callable[[], bytes] | None,
    environment: Mapping[str, str],
    asks_canary: bool = False,
) -> tuple[Check, ...]:
    """List the checks of the side that a directory belongs to.

    Raises:
        InputError: it is no directory of ours, or its settings cannot be read; nothing was checked.
    """
    found = [name for name in (SITE_FILE, COORDINATOR_FILE) if (folder / name).is_file()]
    if len(found) != 1:
        raise InputError(
            str(folder),
            found="both a site and a coordinator" if found else f"neither {SITE_FILE} nor {COORDINATOR_FILE}",
            expected="the directory of one of them",
            remedy="name it with --dir",
        )
    if found == [COORDINATOR_FILE]:
        return _coordinator_checks(folder, passphrase, environment, asks_canary=asks_canary)
    if asks_canary:
        raise InputError("--canary", found="a site's directory", expected="a coordinator's: it asks for runs")
    return _site_checks(folder, passphrase, environment)


def _site_checks(
    folder: Path, passphrase: Callable[[], bytes] | None, environment: Mapping[str, str]
) -> tuple[Check, ...]:
    from partsong.client.doctor.checks import Around, site_checks
    from partsong.client.home.layout import SiteHome
    from partsong.client.home.opened import read_config

    home = SiteHome(folder)
    has_gpu = Path("/dev/nvidiactl").exists()
    around = Around(environment=environment, switches=_switches(), passphrase=passphrase, has_gpu=has_gpu)
    return site_checks(home, read_config(home), around)


def _coordinator_checks(
    folder: Path,
    passphrase: Callable[[], bytes] | None,
    environment: Mapping[str, str],
    *,
    asks_canary: bool,
) -> tuple[Check, ...]:
    from partsong.server.doctor.checks import Around, coordinator_checks
    from partsong.server.membership.home import CoordinatorHome
    from partsong.server.membership.opened import read_config

    home = CoordinatorHome(folder)
    around = Around(environment=environment, switches=_switches(), passphrase=passphrase, asks_canary=asks_canary)
    return coordinator_checks(home, read_config(home), around)


def _switches() -> Mapping[str, str]:
    from partsong.simulations.cli import QUIET

    return QUIET


def _passphrase(file: Path | None) -> Callable[[], bytes] | None:
    """Say where the passphrase comes from; None: from nowhere, so the key is looked at without opening it."""
    from partsong.common.identity.passphrase import FILE_VARIABLE, find_passphrase

    ask = (lambda prompt: getpass(prompt, stream=sys.stderr)) if sys.stdin.isatty() else None
    if ask is None and file is None and not os.environ.keys() & {FILE_VARIABLE, "CREDENTIALS_DIRECTORY"}:
        return None
    found = find_passphrase(file=file, environment=os.environ, ask=ask)
    return lambda: found
