"""A job: what a coordinator asks its sites for, as a folder that whoever has the base model writes once.

job.yaml            `JobConfig`, resolved
base.json           what the base model says of itself: digest, layout of the adapter, LoRA's and PEFT's options
start.safetensors   the adapter before the first round, drawn from the public seed

The daemon reads it without loading a model.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from partsong.common.adapters.adapter import AdapterLayout, FloatVec
from partsong.common.build import build, to_tree
from partsong.common.deployment import JobConfig
from partsong.common.errors import ConfigError, DataError
from partsong.common.files import make_folder, write_bytes, write_json
from partsong.common.identity.charter import Charter
from partsong.common.plan import Plan
from partsong.common.thresholds import smallest_roster
from partsong.server.adapter_file import keep_start, read_adapter
from partsong.server.planning import Base
from partsong.server.questions.planning import plan_of_purpose

JOB, BASE, START = "job.yaml", "base.json", "start.safetensors"
_LARGEST_TEXT = 1 << 24


@dataclass(frozen=True, kw_only=True, slots=True)
class BaseFacts:
    """What a run needs to know of the base model; `base.json`."""

    name: str
    """For people."""
    sha256: str
    lora: Mapping[str, Any]
    """LoRA's options as a plan has them."""
    layout: AdapterLayout
    peft: Mapping[str, Any]
    """All of PEFT's options, as `adapter_config.json` will hold them."""


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class Job:
    """A job, read or ready to be written."""

    config: JobConfig
    base: BaseFacts
    start_P: FloatVec
    """Trained part before the first round."""
    frozen_F: FloatVec

    @property
    def study(self) -> str:
        """Name of its study."""
        return self.config.study

    @property
    def expected_sites(self) -> tuple[str, ...]:
        """Sites that it does not begin without."""
        return self.config.expected_sites

    @property
    def start_timeout_s(self) -> float:
        """How long it waits for them."""
        return self.config.start_timeout_s

    @property
    def report_timeout_s(self) -> float:
        """How long each phase waits."""
        return self.config.cohort.report_timeout_s

    @property
    def check_window(self) -> int:
        """Newest rounds whose masked vectors are kept."""
        return self.config.secure_sum.check_window

    def write(self, folder: Path) -> None:
        """See `write_job`."""
        write_job(folder, self)

    def plan_under(self, charter: Charter, *, run: str) -> Plan:
        """See `plan_of`."""
        return plan_of(self, charter, run=run)


def write_job(folder: Path, job: Job) -> None:
    """Write a job into a new folder.

    Raises:
        DataError: there is something already; nothing was written.
        TryAgain: the disk is full.
    """
    if folder.exists():
        raise DataError(str(folder), found="something there already", expected="a path that does not exist")
    make_folder(folder)
    keep_start(folder / START, job.base.layout, trained_P=job.start_P, frozen_F=job.frozen_F)
    write_json(folder / BASE, to_tree(job.base))
    text = yaml.safe_dump(to_tree(job.config), sort_keys=False, allow_unicode=True)
    write_bytes(folder / JOB, text.encode())


def read_job(folder: Path) -> Job:
    """Read a job, strictly: every key known, every tensor of the layout and no other.

    Raises:
        DataError: a file is missing, damaged, or says something that no job says.
    """
    try:
        config = build(JobConfig, yaml.safe_load(_text(folder / JOB)), where="job")
        base = build(BaseFacts, json.loads(_text(folder / BASE)), where="base")
    except (yaml.YAMLError, ValueError, RecursionError, ConfigError) as err:
        said = str(err) if isinstance(err, ConfigError) else type(err).__name__
        raise DataError(
            str(folder),
            found=f"a job that cannot be read ({said})",
            expected="what `partsong coordinator run` writes",
        ) from err
    start_P, frozen_F = read_adapter(folder / START, base.layout)
    return Job(config=config, base=base, start_P=start_P, frozen_F=frozen_F)


def read_config(folder: Path) -> JobConfig:
    """Read the settings of a job alone, for whoever only looks.

    Raises:
        DataError: the file is missing, damaged, or says something that no job says.
    """
    try:
        return build(JobConfig, yaml.safe_load(_text(folder / JOB)), where="job")
    except (yaml.YAMLError, ConfigError) as err:
        raise DataError(JOB, found="a job that cannot be read", expected="it as it was asked for") from err


def plan_of(job: Job, charter: Charter, *, run: str) -> Plan:
    """Turn a job into the plan of one run under a charter; writes nothing.

    Guarantees: the plan is masked, and its cohort is not smaller than the charter's.
    Args:
        job: what is asked for.
        charter: that is in force.
        run: unique name of the run.
    Raises:
        ConfigError: no run of this job can be under this charter.
    """
    config = job.config
    _check(config, charter)
    minimum = max(charter.minimum_cohort, config.cohort.minimum)
    members = len(charter.sites)
    if smallest_roster(charter.floors, plan_minimum=minimum, members=members) > members:
        raise ConfigError(
            "cohort.minimum",
            found=f"{minimum} with {members} sites in the charter, of which {charter.corrupt_tolerance} may be corrupt",
            expected="a sum that the sites of the charter can make",
            remedy="ask for fewer sites, or change the floors of the charter together with all sites",
        )
    asked = dataclasses.replace(config, cohort=dataclasses.replace(config.cohort, minimum=minimum))
    try:
        return plan_of_purpose(
            asked,
            run=run,
            max_sites=members,
            base=Base(sha256=job.base.sha256, lora=job.base.lora, layout=job.base.layout),
            labels=config.labels,
            frozen_F=job.frozen_F,
            start_P=job.start_P,
            floors=charter.floors,
            names=tuple(site.id for site in charter.sites),
        )
    except ValueError as err:
        raise ConfigError("job", found="settings of which no plan can be made", expected=str(err)) from err


def _check(config: JobConfig, charter: Charter) -> None:
    """Refuse what only a simulation may ask for, and what the charter decides."""
    if config.secure_sum.mode != "full":
        raise ConfigError(
            "secure_sum.mode",
            found=config.secure_sum.mode,
            expected="full: in a deployment the coordinator learns the sum only",
        )
    if config.cohort.sample is not None:
        raise ConfigError("cohort.sample", found=str(config.cohort.sample), expected="nothing: a deployment asks all")
    decided = {"minimum_honest": charter.minimum_honest, "corrupt_tolerance": charter.corrupt_tolerance}
    for name, value in decided.items():
        if getattr(config.secure_sum, name) not in (None, value):
            raise ConfigError(
                f"secure_sum.{name}",
                found=str(getattr(config.secure_sum, name)),
                expected=f"it left out: the charter says {value}",
                remedy="change the charter together with all sites",
            )
    if strange := sorted(set(config.expected_sites) - {site.id for site in charter.sites}):
        raise ConfigError("expected_sites", found=repr(strange[0]), expected="sites of the charter")


def _text(file: Path) -> str:
    """Read a small text file.

    Raises:
        DataError: missing, or larger than any that is written here.
    """
    try:
        size = file.stat().st_size
        if size <= _LARGEST_TEXT:
            return file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as err:
        raise DataError(str(file), found="no text that can be read", expected="a file of a job") from err
    raise DataError(str(file), found=f"{size} bytes", expected=f"at most {_LARGEST_TEXT}")
