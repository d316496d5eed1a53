"""A job that is carried out inside a ServerApp: what it is told, and how it ends."""

from pathlib import Path

import pytest
from ceremony import PASSPHRASE, Ceremony
from office import BASE
from wiring import FROZEN_F, START_P

from partsong.common.config import ModelConfig, PrivacyConfig
from partsong.common.control.socket_file import claimed
from partsong.common.deployment import JobConfig
from partsong.common.errors import ConfigError, InputError, TryAgain
from partsong.common.identity.keys import KeyFileError
from partsong.server.daemon.behind_superlink import GridLink, RunFailed, carry_job_out, read_nodes, require_absolute
from partsong.server.daemon.carry import Pace
from partsong.server.daemon.deployed_run import all_runs
from partsong.server.daemon.job import Job, write_job
from partsong.simulations.local_grid import LocalGrid

PACE = Pace(settle_s=0.0, retry_s=0.0)


@pytest.mark.parametrize(
    ("text", "nodes"),
    [("12=lyon", {12: "lyon"}), ("  12=lyon\n18446744073709551615=a.b ", {12: "lyon", 18446744073709551615: "a.b"})],
)
def test_nodes_are_read(text: str, nodes: dict[int, str]) -> None:
    """As `flwr supernode list` numbers them."""
    assert read_nodes(text) == nodes


@pytest.mark.parametrize(
    "text", ["", "lyon=12", "12=lyon 12=porto", "12=lyon 13=lyon", "12=lyon,13=porto x", "-1=lyon"]
)
def test_anything_else_is_a_mistake(text: str) -> None:
    """Nothing is guessed."""
    with pytest.raises(ConfigError, match="NODE=SITE"):
        read_nodes(text)


@pytest.mark.parametrize("text", ["", "job", 3, None])
def test_a_path_that_depends_on_the_folder_is_a_mistake(text: object) -> None:
    """Flower starts the process wherever it likes."""
    with pytest.raises(InputError, match="absolute"):
        require_absolute(text, key="job")


@pytest.fixture
def job(tmp_path: Path) -> Path:
    config = JobConfig(
        model=ModelConfig(source="x"), privacy=PrivacyConfig(mode="none"), rounds=1, max_length=64, start_timeout_s=0.05
    )
    write_job(tmp_path / "job", Job(config=config, base=BASE, start_P=START_P, frozen_F=FROZEN_F))
    return tmp_path / "job"


def carry(ceremony: Ceremony, job: Path, *, passphrase: bytes = PASSPHRASE) -> None:
    grid = LocalGrid(lambda message, _context: message, ("lyon",))
    try:
        carry_job_out(ceremony.home.path, passphrase=passphrase, job=job, link=GridLink(grid, {9: "porto"}), pace=PACE)
    finally:
        grid.close()


def test_without_enough_sites_the_run_fails_by_name_and_is_kept(ceremony: Ceremony, job: Path) -> None:
    """So Flower shows it as failed, too; nobody was asked anything."""
    with pytest.raises(RunFailed, match="failed"):
        carry(ceremony, job)

    (run,) = all_runs(ceremony.home.runs)
    assert run.told().state == "failed"


def test_a_run_that_was_broken_off_is_taken_up_before_another_is_begun(ceremony: Ceremony, job: Path) -> None:
    """As after the end of the SuperLink: `flwr run` with the same job."""
    with pytest.raises(RunFailed):
        carry(ceremony, job)
    (run,) = all_runs(ceremony.home.runs)
    run.tell("running")

    with pytest.raises(RunFailed, match=run.name):
        carry(ceremony, job)

    assert [one.name for one in all_runs(ceremony.home.runs)] == [run.name]


def test_beside_a_daemon_nothing_is_begun(ceremony: Ceremony, job: Path) -> None:
    """One at a time works on a directory."""
    with claimed(ceremony.home.socket), pytest.raises(TryAgain, match="another daemon"):
        carry(ceremony, job)

    assert list(all_runs(ceremony.home.runs)) == []


def test_another_passphrase_opens_nothing(ceremony: Ceremony, job: Path) -> None:
    """There is no run without the coordinator's key."""
    with pytest.raises(KeyFileError):
        carry(ceremony, job, passphrase=b"another one, just as long")
