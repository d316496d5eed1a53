"""Everyone's keys in one run directory: made once, read back, and never another charter's."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from partsong.client.secure_sum.file_vault import VaultError
from partsong.common.config import SimulationConfig
from partsong.common.errors import ConfigError, DataError
from partsong.common.identity.charter import check_signatures, read
from partsong.common.thresholds import Floors, smallest_sum
from partsong.simulations.consortium import floors_of, found
from partsong.simulations.run_dir import RunDir

Configure = Callable[..., SimulationConfig]
NAMES = ("site-1", "site-2", "site-3")


def test_keys_and_charter_are_read_back(configured: Configure, tmp_path: Path) -> None:
    """The same keys, the same signatures, and vaults that open what the first process wrote."""
    config, run = configured(), RunDir(tmp_path)
    first = found(NAMES, config, run)
    first.members["site-2"].vault.write("plan", b"secret")

    second = found(NAMES, config, run)

    assert second.trust.charter == first.trust.charter
    assert second.coordinator == first.coordinator
    assert second.members["site-2"].vault.read("plan") == b"secret"
    assert second.members["site-1"].vault.read("plan") is None
    assert [m.signer.public_key.hex() for m in second.members.values()] == [s.key for s in first.trust.charter.sites]


def test_the_charter_that_is_written_has_everyone_s_signature(configured: Configure, tmp_path: Path) -> None:
    """Whoever has the file can check it."""
    run = RunDir(tmp_path)
    charter = found(NAMES, configured(), run).trust.charter

    signed = read(run.charter.read_bytes())

    check_signatures(signed)
    assert signed.charter == charter
    assert [site.id for site in charter.sites] == list(NAMES)


def test_two_runs_share_no_key(configured: Configure, tmp_path: Path) -> None:
    """Not even of one seed."""
    first, second = (found(NAMES, configured(), RunDir(tmp_path / name)).trust.charter for name in ("a", "b"))

    keys = [s.key for c in (first, second) for s in c.sites] + [c.coordinator for c in (first, second)]
    assert len(set(keys)) == 8


def test_secrets_are_readable_by_their_owner_alone_and_vaults_hold_no_plain_text(
    configured: Configure, tmp_path: Path
) -> None:
    """Identity keys and the keys of the vaults; records are encrypted, each under its site's key."""
    run = RunDir(tmp_path)
    made = found(NAMES, configured(), run)
    made.members["site-1"].vault.write("plan", b"not in plain text")
    secrets = [*tmp_path.rglob("*.key")]

    assert len(secrets) == 7
    assert {file.stat().st_mode & 0o777 for file in secrets} == {0o600}
    assert not any(b"not in plain text" in file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    (sealed,) = (run.site_folder("site-1") / "vault").glob("*.sealed")
    (run.site_folder("site-2") / "vault" / sealed.name).write_bytes(sealed.read_bytes())
    with pytest.raises(VaultError):
        made.members["site-2"].vault.read("plan")


def test_a_lost_or_cut_key_is_not_replaced_by_another(configured: Configure, tmp_path: Path) -> None:
    """A fresh key would make another charter; 31 bytes make none."""
    config, run = configured(), RunDir(tmp_path)
    found(NAMES, config, run)
    key = run.site_folder("site-1") / "identity.key"
    good = key.read_bytes()

    key.write_bytes(good[:31])
    with pytest.raises(DataError, match=r"identity\.key: found 31 bytes"):
        found(NAMES, config, run)
    key.unlink()
    with pytest.raises(DataError, match="another charter"):
        found(NAMES, config, run)
    key.write_bytes(good)
    assert found(NAMES, config, run).trust.charter.minimum_cohort == 3


def test_a_key_that_a_kill_left_half_written_is_made_anew(configured: Configure, tmp_path: Path) -> None:
    """It lies under another name until it is whole."""
    run = RunDir(tmp_path)
    folder = run.site_folder("site-1")
    (folder / "identity.new").write_bytes(b"half")

    assert found(NAMES, configured(), run).members["site-1"].signer.public_key
    assert len((folder / "identity.key").read_bytes()) == 32


@pytest.mark.parametrize(
    ("sites", "overrides", "expected"),
    [
        (3, (), Floors(minimum_cohort=3, minimum_honest=3, corrupt_tolerance=0)),
        (5, (), Floors(minimum_cohort=3, minimum_honest=3, corrupt_tolerance=1)),
        (5, ("cohort.minimum=4",), Floors(minimum_cohort=4, minimum_honest=3, corrupt_tolerance=1)),
        (2, ("cohort.minimum=2",), Floors(minimum_cohort=2, minimum_honest=2, corrupt_tolerance=0)),
        (9, ("secure_sum.corrupt_tolerance=0", "secure_sum.minimum_honest=2"),
         Floors(minimum_cohort=3, minimum_honest=2, corrupt_tolerance=0)),
    ],
)  # fmt: skip
def test_floors_are_those_of_the_page_unless_configured(
    configured: Configure, sites: int, overrides: tuple[str, ...], expected: Floors
) -> None:
    """By hand, and such that a sum over all sites can be opened."""
    floors = floors_of(configured(*overrides), sites=sites)

    assert floors == expected
    assert smallest_sum(roster=sites, floors=floors) <= sites


@pytest.mark.parametrize(("sites", "tolerance"), [(1, None), (3, 1), (5, 4)])
def test_floors_that_no_sum_keeps_are_refused_before_a_key_is_made(
    configured: Configure, tmp_path: Path, sites: int, tolerance: int | None
) -> None:
    """By the configuration's name; nothing is written."""
    config = configured("cohort.minimum=1")
    config = dataclasses.replace(config, secure_sum=dataclasses.replace(config.secure_sum, corrupt_tolerance=tolerance))

    with pytest.raises(ConfigError, match=r"secure_sum\.mode"):
        found(tuple(f"site-{i}" for i in range(sites)), config, RunDir(tmp_path / "run"))
    assert not (tmp_path / "run").exists()
