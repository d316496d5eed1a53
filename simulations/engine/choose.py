"""From a configuration to what plays the sites."""

from __future__ import annotations

from collections.abc import Callable

from partsong.client.budget.ledger import Ledger
from partsong.client.site import Site
from partsong.common import events
from partsong.common.errors import ConfigError, PartsongError
from partsong.simulations.engine.crew import Clock, Crew, CrewEngine
from partsong.simulations.engine.engine import Engine
from partsong.simulations.engine.one_process import OneProcess
from partsong.simulations.engine.processes import ProcessCrew
from partsong.simulations.engine.ray_cluster import RayCrew
from partsong.simulations.prepare import Prepared
from partsong.simulations.run_dir import RunDir
from partsong.simulations.stacked.company import Company


def engine_of(
    prepared: Prepared,
    names: tuple[str, ...],
    run: RunDir,
    *,
    start: Callable[[str], tuple[Site, Ledger]],
    company: Company | None,
    crew: ProcessCrew | None,
    clock_of: Callable[[str], Clock],
    listen: events.Listener,
    on_error: Callable[[str, PartsongError], None],
) -> Engine:
    """Give the engine that `engine` asks for; nothing is started yet.

    Args:
        prepared: model, records and configuration.
        names: of the sites that take part.
        run: directory of the run.
        start: starts a site in this process.
        company: where the sites of this process train together. None: each alone.
        crew: of the run, where it was started before. None: it is started with the engine.
        clock_of: gives a site's clock.
        listen: told of training steps.
        on_error: told a site's error.
    Raises:
        ConfigError: Ray is not installed, or the run asks for what only one process can give.
    """
    config = prepared.config.engine
    if config.workers == 0:
        return OneProcess(names, start, on_error=on_error, company=company)
    if prepared.config.measure_aggregation or names != tuple(sorted(prepared.tables.sites)):
        raise ConfigError(
            "engine.workers",
            found=f"{config.workers} with measure_aggregation, or with some of the data's sites",
            expected="0: only one process sees every update and is handed its sites",
        )
    chosen: Crew = (
        RayCrew(run.path, config) if config.name == "ray" else (crew or ProcessCrew(prepared.config)).of(run.path)
    )
    return CrewEngine(
        names,
        chosen,
        workers=config.workers,
        together=config.stacked,
        clock_of=clock_of,
        listen=listen,
        on_error=on_error,
    )
