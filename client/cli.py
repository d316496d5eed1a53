"""The operator's commands: `partsong site ...`. Results go to stdout; a mistake leaves with exit code 2."""

# ruff: noqa: FBT002, PLC0415  # switches are how typer spells options; a command imports what it needs: --help is quick

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from partsong.client.adapters import cli as adapters_cli
from partsong.client.daemon import cli as daemon_cli
from partsong.client.membership import backup_cli
from partsong.client.membership import cli as onboarding_cli

site = typer.Typer(
    name="site", no_args_is_help=True, help="What a site allows, what it has spent, and what it agreed to."
)
ledger = typer.Typer(name="ledger", no_args_is_help=True, help="Show, check and export the privacy ledger.")
policy = typer.Typer(name="policy", no_args_is_help=True, help="Check the site's rules.")
site.add_typer(ledger)
site.add_typer(policy)
onboarding_cli.register(site)
daemon_cli.register(site)
adapters_cli.register(site)
backup_cli.register(site)

Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")]
Dir = Annotated[
    Path, typer.Option("--dir", metavar="DIR", help="The site's directory: policy.yaml, ledger.sqlite, approvals/.")
]
Hash = Annotated[str, typer.Argument(metavar="PLAN", help="Hash of the plan, or its beginning.")]
HERE = Path()


@ledger.command()
def show(folder: Dir = HERE, as_json: Json = False) -> None:
    """Show what each holding has spent, and of what."""
    from partsong.client.budget.ledger_export import to_tree
    from partsong.client.home import site_files

    tree = to_tree(site_files.open_ledger(folder), entries=False)
    _print(tree, site_files.ledger_words(tree), as_json=as_json)


@ledger.command()
def verify(
    folder: Dir = HERE,
    head: Annotated[
        list[str] | None,
        typer.Option(metavar="NUMBER:DIGEST", help="A head that somebody else remembers; may be given again."),
    ] = None,  # one line of help
    as_json: Json = False,
) -> None:
    """Check every entry; with --head, also that no older copy was put back."""
    from partsong.client.home import site_files

    heads = tuple(site_files.parse_head(text) for text in head or ())
    tree = site_files.verdict_tree(site_files.open_ledger(folder), heads=heads)
    _print(tree, site_files.verdict_words(tree), as_json=as_json)


@ledger.command()
def export(
    folder: Dir = HERE,
    kind: Annotated[Literal["json", "csv"], typer.Option("--format", help="json holds everything.")] = "json",
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write to this file, whole or not at all.")] = None,
    as_json: Json = False,
) -> None:
    """Write all entries. They hold counts of records: for the site's own eyes."""
    from partsong.client.budget.ledger_export import to_csv, to_json
    from partsong.client.home import site_files
    from partsong.common.files import write_bytes

    opened = site_files.open_ledger(folder)
    text = to_csv(opened) if kind == "csv" and not as_json else to_json(opened)
    if out is None:
        typer.echo(text, nl=False)
    else:
        write_bytes(out, text.encode())


@ledger.command()
def carry(
    file: Annotated[Path, typer.Argument(metavar="EXPORT", help="As `export` wrote it, in JSON.")],
    folder: Dir = HERE,
    incomplete: Annotated[
        bool, typer.Option("--incomplete", help="More was spent since, and the policy's budgets were lowered by it.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Begin the ledger of a site that lost its own with what an export of it had spent."""
    from partsong.client.budget.ledger_export import to_tree
    from partsong.client.home import ledger as ledgers
    from partsong.client.home import site_files
    from partsong.client.home.layout import SiteHome

    ledgers.carry(SiteHome(folder), file, incomplete=incomplete)
    tree = to_tree(site_files.open_ledger(folder), entries=False)
    _print(tree, site_files.ledger_words(tree), as_json=as_json)


@policy.command()
def check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The policy, in YAML.")], as_json: Json = False
) -> None:
    """Check a policy and say what it allows. What it does not name is not allowed."""
    from partsong.client.home import site_files
    from partsong.client.rules.policy_file import read_policy

    found = read_policy(file)
    _print(site_files.policy_tree(found), site_files.policy_words(found), as_json=as_json)


@site.command()
def plans(
    folder: Dir = HERE,
    everything: Annotated[bool, typer.Option("--all", help="Also those that were decided.")] = False,
    as_json: Json = False,
) -> None:
    """List the plans that wait for a person, with what is new about them."""
    from partsong.client.home import site_files

    approvals = site_files.open_approvals(folder)
    trees = [site_files.decision_tree(approvals, d) for d in approvals.all() if everything or d.state == "pending"]
    words = "\n\n".join(site_files.decision_words(tree) for tree in trees)
    _print({"plans": trees}, words or "no plan waits", as_json=as_json)


@site.command()
def approve(plan: Hash, folder: Dir = HERE, as_json: Json = False) -> None:
    """Accept a plan: this one, to the last byte, and no other."""
    _decide(folder, plan, "approved", reason="", as_json=as_json)


@site.command()
def refuse(
    plan: Hash,
    reason: Annotated[str, typer.Option(help="For the site's own record; the coordinator learns a code only.")] = "",
    folder: Dir = HERE,
    as_json: Json = False,
) -> None:
    """Refuse a plan, or take an approval back: its next query is refused."""
    _decide(folder, plan, "refused", reason=reason, as_json=as_json)


def _decide(folder: Path, start: str, state: Literal["approved", "refused"], *, reason: str, as_json: bool) -> None:
    from partsong.client.home import site_files

    approvals = site_files.open_approvals(folder)
    decision = approvals.decide(approvals.find(start).plan_sha256, state, reason=reason)
    tree = site_files.decision_tree(approvals, decision)
    _print(tree, site_files.decision_words(tree), as_json=as_json)


def _print(tree: Mapping[str, Any], words: str, *, as_json: bool) -> None:
    typer.echo(json.dumps(tree, indent=2, ensure_ascii=False, allow_nan=False) if as_json else words)
