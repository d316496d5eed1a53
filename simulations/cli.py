"""The command line. Results go to stdout, talk to stderr; the exit code says how it ended.

0 done, 1 failed, 2 wrong configuration or input, 75 try again, 130 interrupted.
"""

# ruff: noqa: PLR0917  # positional parameters are how typer spells options

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console

from partsong import __version__
from partsong.client.cli import site
from partsong.common.blame import blame
from partsong.common.errors import PartsongError
from partsong.server.daemon import cli as run_cli
from partsong.server.membership import backup_cli
from partsong.server.membership.cli import coordinator
from partsong.simulations.commands import ask_cli
from partsong.simulations.commands.bench_cli import bench
from partsong.simulations.commands.deploy_cli import deploy
from partsong.simulations.commands.doctor_cli import doctor
from partsong.simulations.commands.forecast_cli import forecast
from partsong.simulations.commands.manual import command_tree
from partsong.simulations.commands.study_cli import study
from partsong.simulations.commands.sweep_cli import sweep

QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
"""No telemetry, no update checks, no downloads: set before the libraries that read them are imported."""

TRACEBACK = "PARTSONG_TRACEBACK"
"""Variable that lets an unexpected error print its traceback. Its text may quote what was being read."""
_INTERRUPTED = 130
"""What typer makes of Ctrl-C: 128 and the number of the signal, as shells count."""

app = typer.Typer(
    name="partsong",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Federated fine-tuning of language models: LoRA under differential privacy, updates that open only as a sum.",
    context_settings={"help_option_names": ["-h", "--help"]},
)
EVERYONE, READERS = "Everyone", "Who reads or uses a result"
SITES, COORDINATORS, RESEARCH = "Sites", "Coordinators", "Researchers"
run_cli.register(coordinator)
ask_cli.register(coordinator)
backup_cli.register(coordinator)
app.add_typer(site, rich_help_panel=SITES)
app.add_typer(coordinator, rich_help_panel=COORDINATORS)
app.add_typer(deploy, rich_help_panel=EVERYONE)
app.command(rich_help_panel=EVERYONE)(doctor)
app.command(rich_help_panel=RESEARCH)(study)
app.command(rich_help_panel=RESEARCH)(forecast)
app.command(rich_help_panel=RESEARCH)(sweep)
app.command(rich_help_panel=RESEARCH)(bench)
Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")]


def main() -> None:
    """Run the command line and leave with its exit code."""
    os.environ.update(QUIET)
    # It announces, on machines without a GPU, that it could have fetched a kernel from the network.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    try:
        command_tree(app)(prog_name="partsong", standalone_mode=True)
    except PartsongError as err:
        _say(f"error: {err}")
        sys.exit(err.exit_code)
    except SystemExit as end:
        if end.code == _INTERRUPTED:
            _say("interrupted; `partsong simulate --resume RUN` continues a run")
        raise
    except Exception as err:  # what it says may quote a record, so its text is not shown unless somebody asks
        if os.environ.get(TRACEBACK):
            raise
        _say(_unforeseen(err))
        sys.exit(1)


def _unforeseen(error: Exception) -> str:
    """Tell type and place of an error that is no `PartsongError`."""
    found = blame(error)
    place = found.places[-1] if found.places else "a library"
    return (
        f"error: {place}: found {' from '.join(found.errors)}, expected no such case; this is a mistake in partsong, "
        f"please report it; {TRACEBACK}=1 shows all of it, also what it may quote"
    )


def _say(text: str) -> None:
    Console(stderr=True).print(text, highlight=False, soft_wrap=True, markup=False)


app.command(rich_help_panel=COORDINATORS)(run_cli.explain)


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    """Take the options that stand before a command."""
    if version:
        typer.echo(__version__)
        raise typer.Exit


@app.command(rich_help_panel=RESEARCH)
def simulate(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]...",
            help="Hydra overrides, such as privacy.epsilon=4 or data=local data.path=records.jsonl.",
        ),
    ] = None,  # one line of help
    cfg: Annotated[Literal["job"] | None, typer.Option(help="Print the resolved configuration and stop.")] = None,
    resume: Annotated[Path | None, typer.Option(metavar="RUN", help="Continue the run in this directory.")] = None,
    as_json: Json = False,
) -> None:
    """Run a whole federation on this machine."""
    if resume is not None and overrides:
        raise typer.BadParameter("a resumed run keeps its configuration: give --resume alone", param_hint="KEY=VALUE")
    if cfg == "job":
        typer.echo(_configuration(overrides or [], resume), nl=False)
        return
    done = _started(overrides or []) if resume is None else _resumed(resume)
    if as_json:
        typer.echo(json.dumps(_facts(done), indent=2))
        return
    typer.echo(done.run.report.read_text(), nl=False)
    if done.config.purpose == "train":
        typer.echo(f"\nadapter: {done.run.adapter}\nreport:  {done.run.report}")


@app.command(rich_help_panel=EVERYONE)
def demo(
    model: Annotated[
        Literal["smollm2", "minilm"],
        typer.Option(help="smollm2: a language model answers. minilm: an encoder classifies, faster."),
    ] = "smollm2",  # one line of help
    bank: Annotated[bool, typer.Option("--bank", help="Seven payment institutions instead of five hospitals.")] = False,
    full: Annotated[
        bool, typer.Option("--full", help="Also each site alone under DP, and three seeds; up to 25 minutes.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Play a whole federation: real model, real text, privacy, one site dropping out."""
    from partsong.simulations.demo import run_demo

    facts = run_demo(
        model=model, bank=bank, full=full, console=Console(stderr=True), out=None if as_json else Console()
    )
    if as_json:
        typer.echo(json.dumps(facts, indent=2))


@app.command(rich_help_panel=READERS)
def report(
    run: Annotated[Path, typer.Argument(help="Directory of a run, or its facts.json.")],
    form: Annotated[
        Literal["text", "html", "md", "json"],
        typer.Option("--format", help="html: one file that opens offline. json: the signed facts."),
    ] = "text",  # one line of help
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write here instead of printing.")] = None,
    audit_file: Annotated[
        Path | None,
        typer.Option("--audit", metavar="FILE", help="Show this audit of the same settings beside the claim."),
    ] = None,
    answers: Annotated[
        list[Path] | None,
        typer.Option(
            "--answer", metavar="RUN", help="Show what this evaluation of the adapter, or survey, was answered."
        ),
    ] = None,
    compared: Annotated[
        list[str] | None,
        typer.Option(metavar="SITE=FILE", help="Show what a site gained: what `partsong site compare --json` printed."),
    ] = None,  # one line of help
    drafts: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Write drafts of a DPIA, of EU AI Act Annex IV and of security answers instead."
        ),
    ] = None,
) -> None:
    """Show what a run did and promises: for a terminal, a browser or a program."""
    from partsong.server.report import command

    if drafts is not None:
        if out or audit_file or answers or compared or form != "text":
            raise typer.BadParameter("stands alone", param_hint="--drafts")
        for file in command.write_drafts(run, drafts):
            typer.echo(str(file))
        return
    given = command.Given(audit=audit_file, answers=tuple(answers or ()), compared=tuple(compared or ()))
    text = command.report(run, form=form, given=given)
    if out is None:
        typer.echo(text, nl=False)
    else:
        command.write_new(out, text)
        typer.echo(str(out))


@app.command(rich_help_panel=READERS)
def verify(
    run: Annotated[Path, typer.Argument(help="Directory of a run, or a copy of its public files.")],
    charter: Annotated[
        str | None,
        typer.Option(metavar="SHA256", help="Charter that the run has to be under, as a site has pinned it."),
    ] = None,  # one line of help
    as_json: Json = False,
) -> None:
    """Recompute a run's adapter from its signed sums, offline; exit code 1 where anything differs."""
    from partsong.simulations.verify import table as words
    from partsong.simulations.verify.run import verify as check

    with words.Bar(Console(stderr=True)) as bar:
        found = check(run, charter_sha256=charter, tick=bar)
    if as_json:
        typer.echo(json.dumps(words.facts(found), indent=2))
    else:
        words.show(found, console=Console())
    if found.wrong:
        raise typer.Exit(1)


@app.command(rich_help_panel=RESEARCH)
def audit(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="As for simulate, and audit.records, audit.canaries, ..."),
    ] = None,  # one line of help
    adapter: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Attack the adapter of this run instead of rehearsing one.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="JSON file to write; RUN_DIR/audit-TIME.json by default.")] = None,
    site_dir: Annotated[
        Path | None,
        typer.Option(
            "--site",
            metavar="DIR",
            help="Rehearse on the real records of the site in this directory. Charged to its ledger; stays there.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Rehearse a configuration on public records with canaries: a lower bound on epsilon beside the claim."""
    if site_dir is not None:
        if adapter is not None or out is not None:
            raise typer.BadParameter("stands without --adapter and --out", param_hint="--site")
        from partsong.simulations.audit.command import rehearse_at_site

        rehearse_at_site(site_dir, overrides or [], as_json=as_json, console=Console(stderr=True))
        return
    from partsong.simulations.audit.settings import compose_rehearsal, declared_in

    console = Console(stderr=True)
    if adapter is None:
        config = compose_rehearsal(overrides or [])
        from partsong.simulations.audit.command import rehearse

        rehearse(config, out=out, as_json=as_json, console=console)
    else:
        declared = declared_in(overrides or [])
        from partsong.simulations.audit.command import attack_adapter

        attack_adapter(adapter, declared=declared, out=out, as_json=as_json, console=console)


@app.command(rich_help_panel=READERS)
def export(
    run: Annotated[Path, typer.Argument(help="Directory of a run.")],
    out: Annotated[Path, typer.Argument(help="Folder to write; must not exist.")],
    merge: Annotated[bool, typer.Option("--merge", help="Merge the adapter into the base model's weights.")] = False,
) -> None:
    """Copy a run's adapter as a PEFT folder, or merge it into its base."""
    from partsong.simulations.commands.doing import Doing
    from partsong.simulations.commands.export import export_adapter, export_merged

    with Doing(Console(stderr=True)) as say:
        written = export_merged(run, out, say=say) if merge else export_adapter(run, out)
    typer.echo(str(written))


@app.command(rich_help_panel=READERS)
def mlflow(
    run: Annotated[Path, typer.Argument(help="Directory of a run.")],
    name: Annotated[str, typer.Option(metavar="MODEL", help="Registered model that gets a new version.")],
    uri: Annotated[
        str, typer.Option("--to", metavar="URI", help="Tracking server and registry; a file of this folder else.")
    ] = "sqlite:///mlflow.db",  # one line of help
    alias: Annotated[str, typer.Option(help="Alias of the new version.")] = "candidate",
    as_json: Json = False,
) -> None:
    """Log a verified run in MLflow, and register its adapter. Needs the extra `mlflow`."""
    from partsong.common.build import to_tree
    from partsong.simulations.commands.doing import Doing
    from partsong.simulations.commands.mlflow_registry import register

    with Doing(Console(stderr=True)) as say:
        made = register(run, name=name, uri=uri, alias=alias, say=say)
    typer.echo(json.dumps(to_tree(made)) if as_json else f"{made.name} version {made.version}, alias {made.alias}")


def _configuration(overrides: list[str], resume: Path | None) -> str:
    from partsong.simulations.configure import compose_simulation, to_yaml
    from partsong.simulations.run_dir import RunDir

    return to_yaml(compose_simulation(overrides) if resume is None else RunDir.reopen(resume)[1])


def _started(overrides: list[str]) -> Any:
    from partsong.simulations.configure import compose_simulation

    # Before torch is imported, so that a typing error is answered at once.
    config = compose_simulation(overrides)
    from partsong.simulations.engine.processes import crew_of

    with crew_of(config) as crew:
        from partsong.simulations import simulate as runs

        return runs.simulate(config, console=Console(stderr=True), crew=crew)


def _resumed(run: Path) -> Any:
    from partsong.simulations import simulate as runs

    return runs.resume(run, console=Console(stderr=True))


def _facts(done: Any) -> dict[str, Any]:
    from partsong.common.build import to_tree
    from partsong.server.questions.signed import ANSWER
    from partsong.server.report.claims import guarantee
    from partsong.simulations.marks import marks

    if done.config.purpose != "train":
        answer: dict[str, Any] = json.loads((done.run.path / ANSWER).read_text())
        return answer | {"path": str(done.run.path)}
    return {
        "run": str(done.run.path),
        "adapter": str(done.run.adapter),
        "report": str(done.run.report),
        "marks": list(marks(done.config)),
        "epsilon": done.result.epsilon,
        "secure_sum": to_tree(done.result.secure_sum),
        "guarantee": guarantee(done.result.plan, epsilon=done.result.epsilon),
        "rounds": done.result.history,
    }
