"""One simulated run from configuration to adapter, on disk and on the terminal."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from partsong.client.budget.patients import patient_view
from partsong.client.encoders.survey import findings
from partsong.client.training.comparison import Contest, compare
from partsong.common.build import sha256_of
from partsong.common.config import SimulationConfig
from partsong.common.errors import PartsongError
from partsong.common.files import write_json
from partsong.common.identity.keys import Signer
from partsong.common.plan import Plan
from partsong.server.adapter_file import keep_start
from partsong.server.publication import publish_run
from partsong.server.run import Result
from partsong.server.studies.peft_options import peft_options
from partsong.simulations.display import display_for
from partsong.simulations.engine.processes import ProcessCrew
from partsong.simulations.federation import Federation, draft, fresh_adapter, record_partition
from partsong.simulations.in_the_clear import aggregation_lines
from partsong.simulations.marks import marks
from partsong.simulations.own_tests import budget_of, own_test, personal_in
from partsong.simulations.prepare import Prepared, prepare
from partsong.simulations.resources import Resources, keep_resources, peak_mb
from partsong.simulations.run_dir import RunDir
from partsong.simulations.verify.kept_ledgers import ledger_heads


@dataclass(frozen=True, kw_only=True, slots=True)
class Finished:
    """A finished run and where it lies."""

    config: SimulationConfig
    run: RunDir
    result: Result


def simulate(config: SimulationConfig, *, console: Console, crew: ProcessCrew | None = None) -> Finished:
    """Start a new run and carry it to its end.

    Args:
        config: of the run.
        console: for talk and progress.
        crew: its worker processes, where they were started before.
    Raises:
        InputError: configuration, data or model is wrong; no run directory was made.
        PartsongError: the run stopped; its directory says how far it came, and `--resume` goes on from there.
    """
    begun_s = time.perf_counter()
    prepared = prepare(config, say=lambda text: _say(console, text))
    draft(prepared, tuple(sorted(prepared.sites)), run="draft")
    run = RunDir.create(config, marks=marks(config))
    done = finish(prepared, run, console=console, title=config.study, crew=crew)
    keep_resources(run.path, Resources(wall_s=time.perf_counter() - begun_s, peak_mb=peak_mb()))
    return done


def resume(path: Path, *, console: Console) -> Finished:
    """Continue a run from its newest checkpoint; a finished run is only published again.

    Raises:
        DataError: `path` is not a run, or its checkpoint is damaged.
    """
    run, config = RunDir.reopen(path)
    prepared = prepare(config, say=lambda text: _say(console, text))
    return finish(prepared, run, console=console, title=config.study)


def finish(
    prepared: Prepared,
    run: RunDir,
    *,
    console: Console,
    title: str,
    sites: tuple[str, ...] | None = None,
    crew: ProcessCrew | None = None,
) -> Finished:
    """Run a prepared federation in its directory and publish what it ends with."""
    config = prepared.config
    record_partition(prepared, run)
    start_P, frozen_F = fresh_adapter(prepared)
    keep_start(run.start, prepared.host.layout, trained_P=start_P, frozen_F=frozen_F)
    _say(console, f"run directory: {run.path}")
    for mark in marks(config):
        _say(console, f"! {mark}", style="yellow")

    def site_error(site: str, err: PartsongError) -> None:
        _say(console, f"  {site} (shown at the site only): {err}")

    budget = budget_of(config) if config.privacy.mode == "dp" else None
    with display_for(console, title=title, budget=budget, unit=config.privacy.unit) as show:
        federation = Federation(prepared, run, sites=sites, listen=show, on_site_error=site_error, crew=crew)
        if config.purpose == "survey":
            _show_findings(prepared, run, console=console)
        if federation.plan.question is None:
            _show_patients(prepared, run, federation.plan, console=console)
        result = federation.run()
    if config.compare_alone and result.plan.question is None:
        _compare(prepared, run, result, console=console)
    for line in aggregation_lines(result.history):
        _say(console, line)
    _publish(prepared, run, result, signer=federation.signer)
    return Finished(config=config, run=run, result=result)


def _show_findings(prepared: Prepared, run: RunDir, *, console: Console) -> None:
    """Tell each site what its own records look like, exactly, and keep it in the site's own folder."""
    for name, encoded in sorted(prepared.sites.items()):
        asked = prepared.config.survey.personal_details
        found = findings(encoded.records, personal=personal_in(prepared, name) if asked else None)
        write_json(run.site_folder(name) / "findings.json", dataclasses.asdict(found))
        _say(console, f"  {name} (shown at the site only): {found.words}")


def _show_patients(prepared: Prepared, run: RunDir, plan: Plan, *, console: Console) -> None:
    """Tell each site what the plan means for its patients, and keep it in the site's own folder."""
    for name, encoded in sorted(prepared.sites.items()):
        if (view := patient_view(plan, encoded.records)) is not None:
            write_json(run.site_folder(name) / "patients.json", dataclasses.asdict(view))
            for line in view.lines():
                _say(console, f"  {name} (shown at the site only): {line}")


def _compare(prepared: Prepared, run: RunDir, result: Result, *, console: Console) -> None:
    """Tell each site what it would have got alone, and keep it in the site's own folder."""
    start_P, frozen_F = fresh_adapter(prepared)
    for name, encoded in sorted(prepared.sites.items()):
        contest = Contest(
            host=prepared.host,
            plan=result.plan,
            training=encoded.records,
            test=own_test(prepared, name).encoded.records,
            frozen_F=frozen_F,
            start_P=start_P,
            joint_P=result.trained_P,
        )
        arms = compare(contest)
        write_json(run.site_folder(name) / "comparison.json", [dataclasses.asdict(arm) for arm in arms])
        for arm in arms:
            _say(console, f"  {name} (shown at the site only): {arm.words}")


def _publish(prepared: Prepared, run: RunDir, result: Result, *, signer: Signer | None) -> None:
    config, base = prepared.config, prepared.host.name
    publish_run(
        run,
        result,
        base_name=base,
        peft=peft_options(result.plan.lora, base_name=base),
        config_sha256=sha256_of(config),
        marks=marks(config),
        signer=signer,
        ledger_heads=ledger_heads(run.path),
    )


def _say(console: Console, text: str, *, style: str | None = None) -> None:
    """Print a line as it is: names and paths may hold what rich takes for markup."""
    console.print(text, style=style, highlight=False, soft_wrap=True, markup=False)
