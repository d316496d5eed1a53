"""Opening a finished run for the commands that hand its adapter on."""

from __future__ import annotations

from pathlib import Path

from partsong.common.errors import DataError
from partsong.server.daemon.deployed_run import DeployedRun
from partsong.server.daemon.job import read_job
from partsong.server.run_files import RunFiles
from partsong.simulations.run_dir import RunDir


def finished_run(run_path: Path) -> tuple[RunFiles, str]:
    """Open a finished run, simulated or deployed; also give where its base model came from.

    Raises:
        DataError: the run has no adapter.
    """
    deployed = DeployedRun(run_path)
    if deployed.job.is_dir():
        run: RunFiles = deployed
        source, remedy = read_job(deployed.job).config.model.source, "`partsong coordinator status` says how it stands"
    else:
        run, config = RunDir.reopen(run_path)
        source, remedy = config.model.source, f"partsong simulate --resume {run_path}"
    if not run.adapter.is_dir():
        raise DataError(str(run_path), found="no adapter in it", expected="a finished run", remedy=remedy)
    return run, source
