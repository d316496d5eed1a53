"""What `--help` says beyond options: an example for each command, what its exit code means, and where to read on.

Every command has a page here; a test holds the table to the commands that exist, and the examples to their options.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import click
import typer
from rich.markup import escape
from typer.models import ArgumentInfo
from typer.utils import get_params_from_function

USUAL = "0 done, 1 failed, 2 wrong settings or input, 75 try again."
_DAEMON = (
    "0 ended in order, 1 failed, 2 wrong settings, 75 another daemon runs on this directory or the port is in use."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """The part of a command's help that is about using it."""

    example: str
    """Arguments after the command's own name."""
    exit_codes: str = USUAL
    read: str = ""
    """Page of docs/, without its ending."""
    meanwhile: str = ""
    """What it shows on stderr while it lasts, of those that may take longer than two seconds."""


PAGES: Mapping[str, Page] = MappingProxyType(
    {
        "demo": Page(
            example="--model minilm",
            read="quickstart",
            meanwhile="a bar over all rounds with the time left; without a terminal a line for each.",
        ),
        "doctor": Page(
            example="--dir north",
            exit_codes="0 nothing failed (a warning is no failure), 1 something did, 2 no directory of ours.",
            read="operations",
        ),
        "report": Page(example="RUN --format html --out report.html", read="report"),
        "verify": Page(
            example="RUN --charter SHA256",
            exit_codes="0 nothing differs, 1 something does, 2 the directory is no run.",
            read="verify",
            meanwhile="a bar over the rounds with the time left; without a terminal a line now and then.",
        ),
        "export": Page(example="RUN adapter", read="integrations", meanwhile="with --merge, each step."),
        "mlflow": Page(
            example="RUN --name coding --to http://127.0.0.1:5000", read="integrations", meanwhile="each step."
        ),
        "explain": Page(example="hub/runs/RUN", read="operations"),
        "simulate": Page(
            example="data=local data.path=records.jsonl privacy.epsilon=4",
            read="configuration",
            meanwhile="a table of the sites with the time left; without a terminal a line for each report and round.",
        ),
        "forecast": Page(
            example="data=icd10 rounds=6 --rounds 2",
            read="simulation",
            meanwhile="a table of the sites with the time left; without a terminal a line for each report and round.",
        ),
        "sweep": Page(
            example="adapter.r=4,8 data=icd10 --out sweep",
            read="simulation",
            meanwhile="which trial of how many, and of each what simulate shows.",
        ),
        "study": Page(
            example="medquad data_dir=DATA grid=smoke",
            read="studies",
            meanwhile="a bar over the cells with the time left; without a terminal a line for each.",
        ),
        "bench": Page(
            example="secure-sum --json",
            read="benchmarks",
            meanwhile="a bar over the stages with the time left; without a terminal a line for each.",
        ),
        "audit": Page(
            example="model=local model.source=MODEL privacy.delta=1e-4",
            exit_codes="0 nothing contradicts the claim, 1 something does, or the rehearsal failed, "
            "2 wrong settings, or records that are not declared public.",
            read="audit",
            meanwhile="each step of the rehearsal, and every ten seconds the time left.",
        ),
        "deploy systemd": Page(example="site --dir /var/lib/partsong-site", read="deploy"),
        "deploy container": Page(example="", read="deploy"),
        "deploy compose": Page(example="--gpu", read="deploy"),
        "deploy slurm": Page(example="--partition gpu", read="deploy"),
        "site init": Page(
            example="--invite north.invite.json --data notes.jsonl --model /srv/model --epsilon 8 --dir north",
            read="deploy",
        ),
        "site join": Page(example="north.reply.json charter-1.draft.json --dir north", read="deploy"),
        "site renew": Page(example="--dir north", read="keys"),
        "site new-vault": Page(example="--dir north", read="keys"),
        "site leave": Page(example="--dir north", read="leaving"),
        "site up": Page(example="--dir north", exit_codes=_DAEMON, read="operations"),
        "site status": Page(example="--dir north --watch", read="operations"),
        "site dashboard": Page(example="--dir north", read="dashboard"),
        "site compare": Page(
            example="--dir north", read="evaluation", meanwhile="what is trained, and every ten seconds the time left."
        ),
        "site backup": Page(example="north-backup.zip --dir north", read="operations"),
        "site restore": Page(example="north-backup.zip --dir north", read="operations"),
        "site pause": Page(example="--dir north", read="operations"),
        "site resume": Page(example="--dir north", read="operations"),
        "site capsules": Page(example="--dir north", read="operations"),
        "site purge": Page(example="--dir north --keep-days 30", read="leaving"),
        "site plans": Page(example="--dir north", read="policy"),
        "site approve": Page(example="1f3a --dir north", read="policy"),
        "site refuse": Page(example="1f3a --reason 'another purpose' --dir north", read="policy"),
        "coordinator rollback": Page(example="coding-20261122-195420 6 --dir hub", read="robustness"),
        "site ledger show": Page(example="--dir north", read="policy"),
        "site ledger verify": Page(
            example="--dir north --head 12:DIGEST",
            exit_codes="0 every entry follows and no head is missing, 1 not so, 2 wrong input.",
            read="policy",
        ),
        "site ledger carry": Page(example="ledger-export.json --dir north", read="keys"),
        "site ledger export": Page(example="--dir north --format csv --out ledger.csv", read="policy"),
        "site policy check": Page(example="north/policy.yaml", read="policy"),
        "site charter sign": Page(example="charter-2.draft.json --dir north", read="keys"),
        "site charter show": Page(example="charter-2.draft.json --dir north", read="keys"),
        "site adapters list": Page(example="--dir north", read="deploy"),
        "site adapters fetch": Page(example="1f3a --dir north", read="deploy"),
        "site adapters verify": Page(example="--dir north", read="deploy"),
        "site adapters rollback": Page(example="--dir north", read="deploy"),
        "coordinator init": Page(example="--consortium lungs --name hub.example --site north --dir hub", read="deploy"),
        "coordinator import": Page(example="server.crt --authority roots.pem --dir hub", read="keys"),
        "coordinator invite": Page(example="east --dir hub", read="keys"),
        "coordinator enrol": Page(example="north.request.json --draft --dir hub", read="deploy"),
        "coordinator remove": Page(example="north --dir hub", read="leaving"),
        "coordinator renew": Page(example="--dir hub", read="keys"),
        "coordinator up": Page(example="--dir hub", exit_codes=_DAEMON, read="operations"),
        "coordinator status": Page(example="--dir hub --json", read="operations"),
        "coordinator dashboard": Page(example="--dir hub", read="dashboard"),
        "coordinator backup": Page(example="hub-backup.zip --dir hub", read="operations"),
        "coordinator restore": Page(example="hub-backup.zip --dir hub", read="operations"),
        "coordinator stop": Page(example="coding-1 --dir hub", read="operations"),
        "coordinator resume": Page(example="coding-1 --dir hub", read="operations"),
        "coordinator run": Page(
            example="coding model=local model.source=/srv/model rounds=10 --dir hub --wait",
            exit_codes="0 asked for, or, with --wait, ended as asked; 1 ended otherwise; 2 wrong settings; "
            "75 no daemon answers.",
            read="deploy",
            meanwhile="each step of making the job; with --wait the round and the time left.",
        ),
        "coordinator charter draft": Page(example="--minimum-cohort 3 --dir hub", read="keys"),
        "coordinator charter collect": Page(example="north.cosigned.json --dir hub", read="deploy"),
    }
)


def command_tree(app: typer.Typer) -> click.Command:
    """Build the commands, with their pages and with the help of their arguments.

    click 8.5 gives arguments a help of their own, and overwrites the one that typer up to 0.20 keeps at the same place.
    """
    tree = typer.main.get_command(app)
    for path, command in commands(tree):
        for argument, text in _arguments(command):
            argument.help = text
        if path in PAGES:
            command.epilog = epilog(path)
    return tree


def commands(tree: click.Command, path: str = "") -> Iterator[tuple[str, click.Command]]:
    """List every command that does something, by its words."""
    if isinstance(tree, click.Group):
        for name, below in tree.commands.items():
            yield from commands(below, f"{path} {name}".strip())
    else:
        yield path, tree


def epilog(path: str) -> str:
    """Compose the last lines of a command's help."""
    page = PAGES[path]
    lines = [f"Example: partsong {path} {page.example}".strip(), f"Exit code: {page.exit_codes}"]
    lines += [f"Meanwhile: {page.meanwhile}"] if page.meanwhile else []
    lines += [f"Read on: docs/{page.read}.md"] if page.read else []
    return "\n\n".join(escape(line) for line in lines)


def _arguments(command: click.Command) -> Iterator[tuple[Any, str]]:
    """Give the arguments of a command with the help that its function declares."""
    if command.callback is None:
        return
    declared = get_params_from_function(inspect.unwrap(command.callback))
    for parameter in command.params:
        info = declared[parameter.name].default if parameter.name in declared else None
        if isinstance(parameter, click.Argument) and isinstance(info, ArgumentInfo) and info.help:
            yield parameter, info.help
