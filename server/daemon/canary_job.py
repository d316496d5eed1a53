"""A canary as a job: asked for in a file, carried out as any run is, and judged by what its sum had to be.

canary.yaml   `CanaryConfig`, resolved; nothing else, for there is no base model

Covers: the sum is compared with the one that follows from the plan and the names of the sites in it, number by number,
so one site's wrong word, mask or number is found.
Does not cover: training, and a site that is not in the sum.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

from partsong.common.adapters.adapter import FloatVec
from partsong.common.build import build, to_tree
from partsong.common.canary import STUDY, canary_update
from partsong.common.deployment import CanaryConfig
from partsong.common.errors import ConfigError, DataError, PartsongError
from partsong.common.files import make_folder, write_bytes
from partsong.common.identity.charter import Charter
from partsong.common.plan import Plan
from partsong.server.daemon.canary import make_canary
from partsong.server.run import Result

FILE = "canary.yaml"
_LARGEST_TEXT = 1 << 16
_SEED = 0
"""Any will do: what a site answers follows from the plan's hash, and that from the run's name."""


class CanaryWrong(PartsongError):
    """A canary's sum opened and is not what it had to be; nothing of any record was in it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CanaryJob:
    """A canary, read or ready to be written."""

    config: CanaryConfig

    @property
    def study(self) -> str:
        """Name of its study."""
        return STUDY

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
        return self.config.report_timeout_s

    @property
    def check_window(self) -> int:
        """Its one round is the newest one whose masked vectors are kept."""
        return 1

    @property
    def start_P(self) -> FloatVec:
        """Trained part before the round: zeros."""
        return np.zeros(self.config.numbers, np.float32)

    @property
    def frozen_F(self) -> FloatVec:
        """There is none."""
        return np.zeros(0, np.float32)

    def write(self, folder: Path) -> None:
        """Write the job into a new folder.

        Raises:
            DataError: there is something already; nothing was written.
            TryAgain: the disk is full.
        """
        if folder.exists():
            raise DataError(str(folder), found="something there already", expected="a path that does not exist")
        make_folder(folder)
        write_bytes(folder / FILE, yaml.safe_dump(to_tree(self.config), sort_keys=False).encode())

    def plan_under(self, charter: Charter, *, run: str) -> Plan:
        """Give the plan of one round of all sites of a charter.

        Raises:
            ConfigError: it expects a site that is in no charter.
        """
        members = [site.id for site in charter.sites]
        if strange := sorted(set(self.config.expected_sites) - set(members)):
            raise ConfigError("expected_sites", found=repr(strange[0]), expected="sites of the charter")
        return make_canary(
            run=run,
            size=self.config.numbers,
            rounds=1,
            max_sites=len(members),
            minimum_cohort=charter.minimum_cohort,
            seed=_SEED,
        )


def is_canary(folder: Path) -> bool:
    """Whether the job in a folder is a canary."""
    return (folder / FILE).is_file()


def read_canary(folder: Path) -> CanaryJob:
    """Read a canary, strictly.

    Raises:
        DataError: the file is damaged, or says something that no canary says.
    """
    try:
        with (folder / FILE).open("rb") as source:
            text = source.read(_LARGEST_TEXT)
        return CanaryJob(config=build(CanaryConfig, yaml.safe_load(text), where="canary"))
    except (OSError, yaml.YAMLError, ValueError, RecursionError, ConfigError) as err:
        said = str(err) if isinstance(err, ConfigError) else type(err).__name__
        raise DataError(
            str(folder / FILE),
            found=f"a canary that cannot be read ({said})",
            expected="what `partsong coordinator run --canary` writes",
        ) from err


def require_right(result: Result) -> None:
    """Compare the sum of a canary's round with what its sites had to send.

    The mean of whole numbers of n sites is off by at least 1/n where one of them is wrong, and by less than a
    hundredth of that where only rounding is at work.

    Raises:
        CanaryWrong: they differ.
    """
    (entry,) = (entry for entry in result.history if entry["sites"])
    sites = entry["sites"]
    wanted_P = np.zeros(result.plan.layout.size(trained=True), np.float64)
    for site in sites:
        wanted_P += canary_update(result.plan, number=entry["round"], site=site)
    is_right_P = np.abs(result.trained_P * len(sites) - wanted_P) < 0.5
    if not is_right_P.all():
        raise CanaryWrong(
            f"run {result.plan.run}: found {int((~is_right_P).sum())} of {is_right_P.size} numbers of the sum of "
            f"{', '.join(sites)} that are not theirs, expected none; have no updates sent before the cause is found"
        )
