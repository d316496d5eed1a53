"""The command `partsong audit`: results to stdout and a JSON file, talk to stderr, exit code 1 for a broken claim."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer
from rich.console import Console

from partsong.client.home.layout import SiteHome
from partsong.client.home.site_files import read_site
from partsong.common.errors import ConfigError
from partsong.common.files import write_json
from partsong.simulations.audit import at_site, report
from partsong.simulations.audit.adapter import attack_run
from partsong.simulations.audit.run import ClaimBroken, audit
from partsong.simulations.audit.settings import Declared, RehearsalConfig, compose_at_site


def rehearse(config: RehearsalConfig, *, out: Path | None, as_json: bool, console: Console) -> None:
    """Audit a configuration.

    Raises:
        ClaimBroken: after everything was printed and written.
    """
    file = _fresh(out, Path(config.run_dir))
    done = audit(config, say=lambda line: _say(console, line))
    _hand_over(report.facts(done), report.text(done), file=file, as_json=as_json)
    if done.verdict.failed:
        raise ClaimBroken(done.verdict)


def rehearse_at_site(folder: Path, overrides: Sequence[str], *, as_json: bool, console: Console) -> None:
    """Audit a configuration over a site's own records; the result stays in the site's directory.

    Raises:
        ClaimBroken: after everything was printed and written.
    """
    home = SiteHome(folder)
    site = read_site(home)
    config = compose_at_site(site, overrides)
    file = at_site.fresh_file(home)
    done, charged = at_site.audit_at_site(home, site, config, say=lambda line: _say(console, line))
    found = at_site.facts(report.facts(done), charged)
    _hand_over(found, report.text(done, records_are="private"), file=file, as_json=as_json)
    if done.verdict.failed:
        raise ClaimBroken(done.verdict)


def attack_adapter(run: Path, *, declared: Declared, out: Path | None, as_json: bool, console: Console) -> None:
    """Attack the adapter of a run."""
    file = _fresh(out, run)
    found = attack_run(run, declared=declared, say=lambda line: _say(console, line))
    _hand_over(report.facts_of_run(found), report.text_of_run(found), file=file, as_json=as_json)


def _fresh(out: Path | None, folder: Path) -> Path:
    """Choose a file that does not exist.

    Raises:
        ConfigError: `out` exists; nothing was overwritten.
    """
    if out is not None and out.exists():
        raise ConfigError("--out", found=f"{out}, which exists", expected="a new file")
    now = dt.datetime.now(dt.UTC).strftime("%Y%m%d-%H%M%S-%f")
    return out or folder / f"audit-{now}.json"


def _hand_over(facts: dict[str, Any], text: str, *, file: Path, as_json: bool) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, facts)
    if as_json:
        typer.echo(json.dumps(facts | {"file": str(file)}, indent=2))
        return
    typer.echo(text, nl=False)
    typer.echo(f"\njson: {file}")


def _say(console: Console, line: str) -> None:
    console.print(line, highlight=False, soft_wrap=True, markup=False)
