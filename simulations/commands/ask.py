"""Asking for a run: a job is composed, its base model loaded once, and the job handed to the coordinator's daemon."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from partsong.client.model.host import ModelHost
from partsong.client.model.load import load
from partsong.client.model.lora import public_start
from partsong.common.adapters.adapter import FloatVec, flatten
from partsong.common.deployment import JobConfig
from partsong.common.errors import ConfigError
from partsong.common.identity.charter import Charter
from partsong.server.adapter_file import read_end
from partsong.server.daemon.deployed_run import find_run
from partsong.server.daemon.job import BaseFacts, Job, plan_of
from partsong.server.membership.home import CoordinatorHome
from partsong.server.membership.opened import newest_charter
from partsong.server.studies.peft_options import peft_options
from partsong.simulations.prepare import check_length


def make_job(
    config: JobConfig, *, charter: Charter | None, runs: Path | None = None, say: Callable[[str], None] = lambda _: None
) -> Job:
    """Load the base model once, and find out all that a run needs to know of it.

    Args:
        config: of the job.
        runs: folder of the coordinator's runs, for the one whose adapter is evaluated.
        charter: in force, to find out now what the daemon would refuse later; None where it is not at hand.
        say: told about steps that take longer than a moment.
    Raises:
        InputError: the base model or the settings do not fit, or there is no run of this job under the charter.
    """
    host = load(config.model, config.adapter, labels=config.labels, private=config.privacy.mode == "dp", say=say)
    check_length(host, config.max_length, key="max_length")
    start_P, frozen_F = _start(config, host, runs=runs)
    name = host.name
    job = Job(
        config=config,
        base=BaseFacts(
            name=name,
            sha256=host.files.sha256,
            lora=host.lora_options,
            layout=host.layout,
            peft=peft_options(host.lora_options, base_name=name),
        ),
        start_P=start_P,
        frozen_F=frozen_F,
    )
    if charter is not None:
        plan_of(job, charter, run="draft")
    return job


def _start(config: JobConfig, host: ModelHost, *, runs: Path | None) -> tuple[FloatVec, FloatVec]:
    """Give the adapter that the run begins with: drawn from the public seed, or the one in question."""
    evaluated = config.evaluation.run
    if config.purpose == "evaluate" and evaluated is not None:
        if runs is None:
            raise ConfigError("evaluation.run", found=evaluated, expected="nothing: there are no runs here")
        return read_end(find_run(runs, evaluated), host.layout)
    start = public_start(host.model, host.layout, config.adapter)
    return flatten(start, host.layout.trained), flatten(start, host.layout.frozen)


def charter_of(folder: Path) -> Charter | None:
    """Read the newest charter of a coordinator's directory; None where there is none."""
    signed = newest_charter(CoordinatorHome(folder))
    return None if signed is None else signed.charter
