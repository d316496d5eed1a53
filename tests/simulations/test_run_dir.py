"""A run's directory is its own, whole or absent."""

import json
import os
import resource
from collections.abc import Callable
from pathlib import Path

import pytest

from partsong.common.build import sha256_of
from partsong.common.config import SimulationConfig
from partsong.common.errors import ConfigError, TryAgain
from partsong.simulations.run_dir import RunDir

Configure = Callable[..., SimulationConfig]


def test_runs_that_begin_together_have_different_directories(configured: Configure) -> None:
    """Ten at once: ten directories, named after the study, each with its own name inside."""
    runs = [RunDir.create(configured("study='my study/1'"), marks=()) for _ in range(10)]

    assert len({run.path for run in runs}) == 10
    assert all(run.path.name.startswith("my-study-1-") for run in runs)
    assert [run.name for run in runs] == [run.path.name for run in runs]


def test_a_name_outlives_a_move(configured: Configure, tmp_path: Path) -> None:
    """The name is written down, not read off the path; a folder without one is called as it is."""
    run = RunDir.create(configured(), marks=())
    before = run.name

    assert RunDir(run.path.rename(tmp_path / "other")).name == before
    assert RunDir(tmp_path / "alone").name == "alone"


def test_the_file_about_a_run_holds_hash_marks_and_versions(configured: Configure) -> None:
    """Enough to tell later what made it."""
    config = configured()
    about = json.loads((RunDir.create(config, marks=("A: b",)).path / "run.json").read_text())

    assert about["config_sha256"] == sha256_of(config)
    assert about["marks"] == ["A: b"]
    assert {"partsong", "python", "torch", "flwr"} <= set(about["versions"])


def test_a_full_disk_leaves_no_directory(configured: Configure, tmp_path: Path) -> None:
    """Files are limited to fifty bytes, which no configuration fits into."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50, hard))
    try:
        with pytest.raises(TryAgain, match=r"config\.yaml: no space left"):
            RunDir.create(configured(), marks=())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    assert list((tmp_path / "runs").iterdir()) == []


def test_a_place_that_cannot_be_written_is_named(configured: Configure, tmp_path: Path) -> None:
    """Not a folder, and where the tests are not run by root, a folder without permission."""
    file, locked = tmp_path / "file", tmp_path / "locked"
    file.touch()
    locked.mkdir(mode=0o500)
    places = [file, file / "runs", *([locked / "runs"] if os.geteuid() else [])]

    for place in places:
        with pytest.raises(ConfigError, match=r"run_dir: found .*expected a folder that can be written to"):
            RunDir.create(configured(f"run_dir={place}"), marks=())


@pytest.mark.parametrize("names", [("a/b", "a-b"), ("..", "."), ("a b", "a  b"), ("", "-"), ("ä", "a")])
def test_no_two_sites_share_a_folder(tmp_path: Path, names: tuple[str, str]) -> None:
    """And none lies outside the run's own folder of sites."""
    run = RunDir(tmp_path / "run")

    first, second = (run.site_folder(name) for name in names)

    assert first != second
    assert first.resolve().parent == second.resolve().parent == run.path / "sites"


def test_metrics_hold_what_the_history_holds(tmp_path: Path) -> None:
    """A line that no checkpoint knows is gone after a rewrite."""
    run = RunDir(tmp_path)
    run.rewrite_metrics([{"round": 1}, {"round": 2}])
    run.rewrite_metrics([{"round": 1}])

    assert run.metrics.read_text() == '{"round": 1}\n'
