"""Identity and charter: what is on the disk is what everybody signed."""

import os
from pathlib import Path

import pytest

from partsong.common.doctor.finding import Check, Seen, run
from partsong.common.doctor.trust import check_charter, check_identity
from partsong.common.identity.charter import Charter, Member, SignedCharter, sign_as_coordinator, sign_as_site
from partsong.common.identity.keys import Identity, lock

PASSPHRASE = b"correct horse battery"


@pytest.fixture(scope="module")
def people() -> dict[str, Identity]:
    """A coordinator and three sites."""
    return {name: Identity(bytes([number]) * 32) for number, name in enumerate(["coordinator", "a", "b", "c"], 1)}


@pytest.fixture(scope="module")
def key_file(tmp_path_factory: pytest.TempPathFactory, people: dict[str, Identity]) -> Path:
    """The identity of site a."""
    file = tmp_path_factory.mktemp("keys") / "identity.json"
    file.write_bytes(lock(people["a"], passphrase=PASSPHRASE, entropy=os.urandom))
    file.chmod(0o600)
    return file


def signed(people: dict[str, Identity], *, version: int = 1, previous: str | None = None) -> SignedCharter:
    sites = tuple(Member(id=name, key=people[name].public_key.hex()) for name in "abc")
    charter = Charter(
        consortium="lungs",
        version=version,
        previous=previous,
        suite="A",
        coordinator=people["coordinator"].public_key.hex(),
        sites=sites,
        minimum_cohort=3,
        corrupt_tolerance=0,
    )
    return SignedCharter(
        charter=charter,
        coordinator_signature=sign_as_coordinator(charter, people["coordinator"]),
        site_signatures={name: sign_as_site(charter, site_id=name, signer=people[name]) for name in "abc"},
    )


def guarded(look) -> Seen:
    (finding,) = run([Check(name="x", look=look)])
    return finding.seen


def test_the_right_passphrase_opens_the_key(key_file: Path) -> None:
    """The finding shows the fingerprint that people compare."""
    seen = check_identity(key_file, passphrase=lambda: PASSPHRASE)

    assert seen.state == "ok"
    assert "fingerprint" in seen.found


def test_another_passphrase_is_a_failure_and_none_a_skip(key_file: Path) -> None:
    """Without anybody to ask the file is looked at and not opened."""
    wrong = guarded(lambda: check_identity(key_file, passphrase=lambda: b"another"))

    assert (wrong.state, "passphrase" in wrong.found) == ("fail", True)
    assert check_identity(key_file, passphrase=None).state == "skipped"


def test_a_key_that_others_can_read_is_a_failure(tmp_path: Path, key_file: Path) -> None:
    """The mode is shown."""
    copy = tmp_path / "identity.json"
    copy.write_bytes(key_file.read_bytes())
    copy.chmod(0o640)

    assert "mode 640" in check_identity(copy, passphrase=None).found


def test_a_missing_key_file_is_a_failure(tmp_path: Path) -> None:
    """It says where to get it back from."""
    seen = guarded(lambda: check_identity(tmp_path / "identity.json", passphrase=None))

    assert "backup" in seen.remedy


def test_a_chain_of_charters_is_checked_to_its_newest(tmp_path: Path, people, key_file: Path) -> None:
    """Ten comes after nine, not after one."""
    versions = [signed(people)]
    for number in range(2, 11):
        versions.append(signed(people, version=number, previous=versions[-1].charter.hash.hex()))
    for one in versions:
        (tmp_path / f"{one.charter.version}.json").write_bytes(one.to_bytes())

    seen = check_charter(tmp_path, member="a", identity=key_file)

    assert seen.state == "ok"
    assert seen.found.startswith("version 10 of lungs, 3 sites")
    assert versions[-1].charter.hash.hex() in seen.found


def test_a_changed_charter_and_one_that_was_left_out_are_found(tmp_path: Path, people, key_file: Path) -> None:
    """One flipped signature, one missing version, no charter at all."""
    first = signed(people)
    third = signed(people, version=3, previous="0" * 64)
    changed = first.to_bytes().replace(b'"minimum_cohort":3', b'"minimum_cohort":2')

    assert guarded(lambda: check_charter(tmp_path, member="a", identity=key_file)).found == "no charter"
    (tmp_path / "1.json").write_bytes(changed)
    assert guarded(lambda: check_charter(tmp_path, member="a", identity=key_file)).state == "fail"
    (tmp_path / "1.json").write_bytes(first.to_bytes())
    (tmp_path / "3.json").write_bytes(third.to_bytes())
    assert "version 3" in guarded(lambda: check_charter(tmp_path, member="a", identity=key_file)).found


def test_the_key_here_must_be_the_listed_one(tmp_path: Path, people, key_file: Path) -> None:
    """A restored directory of another site, or a coordinator's place, does not fit."""
    (tmp_path / "1.json").write_bytes(signed(people).to_bytes())

    assert "another key for b" in check_charter(tmp_path, member="b", identity=key_file).found
    assert "the coordinator" in check_charter(tmp_path, member=None, identity=key_file).found
    assert guarded(lambda: check_charter(tmp_path, member="z", identity=key_file)).found == "charter: no site z"
