"""A vault on disk keeps whole records, only for its key, and never half of one."""

import os
import resource
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from partsong.client.secure_sum.file_vault import FORMAT, FORMAT_FILE, FileVault, VaultError
from partsong.common.errors import TryAgain
from partsong.simulations.secure_sum import found, next_header, run_round, set_up

KEY = bytes(range(32))


def vault_of(folder: Path, key: bytes = KEY) -> FileVault:
    return FileVault(folder, key=key, entropy=os.urandom)


def records_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name != FORMAT_FILE]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20, deadline=None)
@given(records=st.lists(st.tuples(st.sampled_from(["run", "report", "set-up attempts"]), st.binary(max_size=99))))
def test_the_last_write_of_each_record_is_read(tmp_path: Path, records: list[tuple[str, bytes]]) -> None:
    """Also by another process that opens the folder later."""
    vault, expected = vault_of(tmp_path), {}
    for name in ("run", "report", "set-up attempts"):
        vault.erase(name)
    for name, data in records:
        vault.write(name, data)
        expected[name] = data

    later = vault_of(tmp_path)

    assert {n: later.read(n) for n in expected} == expected
    assert vault.read("never written") is None


def test_an_erased_record_is_gone(tmp_path: Path) -> None:
    """And erasing twice is no error."""
    vault = vault_of(tmp_path)
    vault.write("run", b"secret")
    vault.erase("run")
    vault.erase("run")

    assert vault.read("run") is None
    assert records_in(tmp_path) == []


def test_a_changed_swapped_cut_or_foreign_file_is_refused(tmp_path: Path) -> None:
    """Every byte counts, and so does the record's name."""
    vault = vault_of(tmp_path)
    vault.write("run", b"secret" * 10)
    vault.write("report", b"other" * 12)
    run, report = tmp_path / "run.sealed", tmp_path / "report.sealed"
    good = run.read_bytes()
    for place in (0, 12, len(good) - 1):
        run.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
        with pytest.raises(VaultError, match="does not open"):
            vault.read("run")
    for other in (good[:-1], good[:5], b"", good + b"x", report.read_bytes()):
        run.write_bytes(other)
        with pytest.raises(VaultError, match="does not open"):
            vault.read("run")
    run.write_bytes(good)
    with pytest.raises(VaultError, match="does not open"):
        vault_of(tmp_path, bytes(32)).read("run")

    assert vault.read("run") == b"secret" * 10


def test_nothing_is_in_clear_and_nobody_else_may_read(tmp_path: Path) -> None:
    """Contents are encrypted, afresh each time, and the file is the user's alone."""
    vault = vault_of(tmp_path)
    vault.write("run", b"secret" * 10)
    file = tmp_path / "run.sealed"
    first = file.read_bytes()
    vault.write("run", b"secret" * 10)

    assert b"secret" not in first
    assert first != file.read_bytes()
    assert file.stat().st_mode & 0o077 == 0


def test_a_write_that_fails_leaves_the_old_record(tmp_path: Path) -> None:
    """No room for the new record: it is not half there, and the old one still opens."""
    vault = vault_of(tmp_path)
    vault.write("run", b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(TryAgain, match="no record is half there"):
            vault.write("run", bytes(100_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    assert vault.read("run") == b"old"
    assert records_in(tmp_path) == ["run.sealed"]


def test_what_a_crash_left_half_written_is_removed(tmp_path: Path) -> None:
    """At the next start the old record is the record."""
    vault_of(tmp_path).write("run", b"old")
    (tmp_path / "run.new").write_bytes(b"half")

    assert vault_of(tmp_path).read("run") == b"old"
    assert not (tmp_path / "run.new").exists()


def test_a_whole_run_works_on_disk(tmp_path: Path) -> None:
    """Keys, rounds and erasure as in memory; what is left on disk is the run's state."""
    consortium = found(["a", "b", "c"])
    vaults = []
    for name in "abc":
        (tmp_path / name).mkdir()
        vaults.append(vault_of(tmp_path / name))
    object.__setattr__(consortium, "vaults", tuple(vaults))
    made = set_up(consortium, run=bytes(32))

    for _ in range(2):
        opened = run_round(made, next_header(made, words=9), lambda i, _: np.full(9, i, np.uint64))
        assert (opened.words == 3).all()
    assert records_in(tmp_path / "a") == ["run.sealed"]


def test_a_vault_of_another_format_is_refused_by_name_and_left_as_it_is(tmp_path: Path) -> None:
    """Of a later version, or of none; the control is the format that it has."""
    vault_of(tmp_path).write("run", b"state")
    before = (tmp_path / "run.sealed").read_bytes()

    for other in (b"partsong vault 2\n", b"", FORMAT[:-1]):
        (tmp_path / FORMAT_FILE).write_bytes(other)
        with pytest.raises(VaultError, match="a vault of another format"):
            vault_of(tmp_path)
    (tmp_path / FORMAT_FILE).write_bytes(FORMAT)

    assert (tmp_path / "run.sealed").read_bytes() == before
    assert vault_of(tmp_path).read("run") == b"state"


def test_a_vault_from_before_formats_had_names_is_taken_over(tmp_path: Path) -> None:
    """It is of the first format, and says so from then on."""
    vault_of(tmp_path).write("run", b"state")
    (tmp_path / FORMAT_FILE).unlink()

    assert vault_of(tmp_path).read("run") == b"state"
    assert (tmp_path / FORMAT_FILE).read_bytes() == FORMAT
