"""`partsong doctor`: every check of a site's or a coordinator's directory, one after the other."""

# ruff: noqa: FBT002, PLC0415  # switches are how typer spells options; a command imports what it needs

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from partsong.common.errors import InputError

if TYPE_CHECKING:
    from partsong.common.doctor.finding import Check

SITE_FILE, COORDINATOR_FILE = "site.yaml", "coordinator.yaml"
_LARGEST_BYTES = 1 << 20


def doctor(
    folder: Annotated[
        Path, typer.Option("--dir", metavar="DIR", help="Directory of a site or of a coordinator.")
    ] = Path(),  # one line of help
    passphrase_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Passphrase of the identity; asked for on a terminal.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as one JSON object.")] = False,
) -> None:
    """Check this machine, its way to the coordinator and the files in DIR; exit code 1 where anything failed."""
    from partsong.common.doctor.finding import exit_code, run
    from partsong.simulations import doctor_table

    findings = run(checks_of(folder, passphrase=_passphrase(passphrase_file), environment=os.environ))
    console = Console()
    if as_json:
        done = list(findings)
        typer.echo(json.dumps(doctor_table.to_tree(done), indent=2, ensure_ascii=False))
    else:
        done = (doctor_table.show_table if console.is_terminal else doctor_table.show_lines)(findings, console=console)
    if code := exit_code(done):
        raise typer.Exit(code)


def checks_of(
    folder: Path, *, passphrase: Callable[[], bytes] | None, environment: Mapping[str, str]
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
    side = _site_checks if found == [SITE_FILE] else _coordinator_checks
    return side(folder, passphrase, environment)


def _site_checks(
    folder: Path, passphrase: Callable[[], bytes] | None, environment: Mapping[str, str]
) -> tuple[Check, ...]:
    from partsong.client.doctor.checks import Around, site_checks
    from partsong.client.home import SiteHome
    from partsong.common.build import build
    from partsong.common.deployment import SiteConfig

    config = build(SiteConfig, _read_yaml(folder / SITE_FILE))
    around = Around(
        environment=environment,
        switches=_switches(),
        passphrase=passphrase,
        has_gpu=Path("/dev/nvidiactl").exists(),
    )
    return site_checks(SiteHome(folder), config, around)


def _coordinator_checks(
    folder: Path, passphrase: Callable[[], bytes] | None, environment: Mapping[str, str]
) -> tuple[Check, ...]:
    from partsong.common.build import build
    from partsong.common.deployment import CoordinatorConfig
    from partsong.server.doctor.checks import Around, coordinator_checks
    from partsong.server.home import CoordinatorHome

    config = build(CoordinatorConfig, _read_yaml(folder / COORDINATOR_FILE))
    around = Around(environment=environment, switches=_switches(), passphrase=passphrase)
    return coordinator_checks(CoordinatorHome(folder), config, around)


def _switches() -> Mapping[str, str]:
    from partsong.simulations.cli import QUIET

    return QUIET


def _passphrase(file: Path | None) -> Callable[[], bytes] | None:
    """Where the passphrase comes from: the file, systemd's credential, or somebody at the terminal."""
    if file is not None:
        return lambda: file.read_bytes().rstrip(b"\n")
    if folder := os.environ.get("CREDENTIALS_DIRECTORY"):
        credential = Path(folder) / "partsong-passphrase"
        return lambda: credential.read_bytes().rstrip(b"\n")
    if sys.stdin.isatty():
        asked: str = typer.prompt("passphrase of the identity", hide_input=True, err=True)
        return asked.encode
    return None


def _read_yaml(file: Path) -> Any:
    import yaml

    try:
        return yaml.safe_load(file.read_bytes()[:_LARGEST_BYTES])
    except (OSError, yaml.YAMLError) as err:
        raise InputError(file.name, found="no YAML that can be read", expected="the settings that init wrote") from err
