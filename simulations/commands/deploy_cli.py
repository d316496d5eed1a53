"""`partsong deploy`: print the files that run a daemon on this machine."""

# ruff: noqa: PLR0917  # positional parameters are how typer spells options

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated, Literal

import typer

from partsong import __version__
from partsong.common.deployment import PUBLIC_PORT
from partsong.simulations.commands.deploy import fill

deploy = typer.Typer(
    name="deploy", no_args_is_help=True, help="Print files for systemd, containers and Slurm, with the paths filled in."
)

STATE = Path("/var/lib")
Dir = Annotated[
    Path | None, typer.Option("--dir", metavar="DIR", help="Directory of the daemon; /var/lib/partsong-SIDE else.")
]
Secret = Annotated[
    Path | None,
    typer.Option("--passphrase-file", metavar="FILE", help="Holds the passphrase; /etc/partsong/SIDE.passphrase else."),
]
Proxy = Annotated[str, typer.Option(metavar="URL", help="HTTPS_PROXY of the daemon, http://host:port.")]
Side = Annotated[Literal["site", "coordinator"], typer.Argument(help="Which daemon.")]


@deploy.command()
def systemd(
    side: Side,
    folder: Dir = None,
    passphrase_file: Secret = None,
    user: Annotated[str, typer.Option(help="Who the daemon runs as; operators use the same name.")] = "partsong",
    proxy: Proxy = "",
    health_port: Annotated[int | None, typer.Option(help="The loopback port in site.yaml, if one is opened.")] = None,
    only_from: Annotated[
        str,
        typer.Option(
            "--only", metavar="ADDRESS", help="Let packets go to this address or network alone, and to localhost."
        ),
    ] = "",
) -> None:
    """Print a hardened systemd unit."""
    where = _dir(folder, side)
    values = _paths(side, where, passphrase_file) | {
        "USER": user,
        "PROXY": proxy,
        "STATE_DIRECTORY": where.name if where.parent == STATE else "",
        "HEALTH_PORT": "" if health_port is None else str(health_port),
        "DENY": "any" if only_from else "",
        "ALLOW": only_from,
    }
    text = fill(f"partsong-{side}.service", values)
    # Loopback has to stay open beside the one address, for health and for the coordinator's own transport.
    typer.echo(text.replace(f"IPAddressAllow={only_from}\n", f"IPAddressAllow=localhost {only_from}\n"), nl=False)


@deploy.command()
def container() -> None:
    """Print a Containerfile for an image that runs without root on a read-only file system."""
    typer.echo(fill("Containerfile", {"VERSION": __version__}), nl=False)


@deploy.command()
def compose(
    folder: Dir = None,
    passphrase_file: Secret = None,
    data: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder with a site's records.")] = Path("/srv/records"),
    model: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder of a site's base model.")] = Path("/srv/model"),
    port: Annotated[int, typer.Option(help="The coordinator's public port.")] = PUBLIC_PORT,
    proxy: Proxy = "",
    gpu: Annotated[bool, typer.Option("--gpu", help="Pass the GPUs through.")] = False,  # noqa: FBT002 - a switch
) -> None:
    """Print a compose file for either side."""
    values = _paths("site", folder or STATE / "partsong", passphrase_file) | {
        "VERSION": __version__,
        "DATA": str(data.absolute()),
        "MODEL": str(model.absolute()),
        "PORT": str(port),
        "PROXY": proxy,
        "GPUS": "all" if gpu else "",
    }
    typer.echo(fill("compose.yaml", values), nl=False)


@deploy.command()
def slurm(
    partition: Annotated[str, typer.Option(help="Partition with GPUs.")] = "gpu",
    folder: Dir = None,
    passphrase_file: Secret = None,
    proxy: Proxy = "",
) -> None:
    """Print a batch script for a site whose GPU is behind Slurm."""
    values = _paths("site", _dir(folder, "site"), passphrase_file) | {"PARTITION": partition, "PROXY": proxy}
    typer.echo(fill("site.sbatch", values), nl=False)


def _dir(folder: Path | None, side: str) -> Path:
    return STATE / f"partsong-{side}" if folder is None else folder.absolute()


def _paths(side: str, folder: Path, passphrase_file: Path | None) -> dict[str, str]:
    secret = Path(f"/etc/partsong/{side}.passphrase") if passphrase_file is None else passphrase_file.absolute()
    return {
        "PARTSONG": shutil.which("partsong") or "/usr/local/bin/partsong",
        "DIR": str(folder.absolute()),
        "PASSPHRASE_FILE": str(secret),
    }
