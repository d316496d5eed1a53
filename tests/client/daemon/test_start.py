"""A directory is held by one daemon, and its ledger is not begun anew; the parts that share a vault stay apart."""

import contextlib
import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partsong.client.budget.ledger import Claim
from partsong.client.daemon.plan_folder import PlanFolder, all_plans
from partsong.client.daemon.start import at_work
from partsong.client.home.layout import SiteHome
from partsong.client.home.lock import held
from partsong.client.home.site_files import open_ledger
from partsong.client.membership.seen_charter import require_newest
from partsong.client.secure_sum.plan_vault import PlanVault
from partsong.client.secure_sum.vault import MemoryVault
from partsong.common.control.feed import Feed
from partsong.common.errors import DataError, InputError, Refused, TryAgain, WireError
from partsong.common.identity.charter import Charter


@dataclasses.dataclass(frozen=True, kw_only=True)
class Unlocked:
    """What `open_site` gives, as far as the daemon looks at it."""

    config: Any
    signer: Any
    charter: Any
    policy: Any
    vault: Any
    tls: Any = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Signed:
    charter: Charter


def unlocked(fleet: Any, tmp_path: Path) -> tuple[SiteHome, Any]:
    site = fleet.sites["a"]
    data = dataclasses.replace(site.config.data, path=str(tmp_path / "records.jsonl"))
    config = dataclasses.replace(site.config, data=data)
    return SiteHome(tmp_path / "fresh"), Unlocked(
        config=config, signer=site.signer, charter=Signed(charter=fleet.charter), policy=site.policy,
        vault=MemoryVault(),
    )  # fmt: skip


def test_a_directory_is_held_by_one_at_a_time(tmp_path: Path) -> None:
    """The second is told to try again; after the first it may."""
    file = tmp_path / "daemon.lock"

    with held(file), pytest.raises(TryAgain, match="a daemon works"), held(file):
        pass

    with held(file):
        pass


def test_a_daemon_works_on_what_onboarding_left(fleet: Any, tmp_path: Path) -> None:
    """It refuses a site without a charter, and a second daemon."""
    home, opened = unlocked(fleet, tmp_path)
    feed = Feed(clock=lambda: 0.0)

    with (
        pytest.raises(InputError, match="no charter"),
        at_work(home, dataclasses.replace(opened, charter=None), feed=feed, clock=lambda: 0.0),
    ):
        pass
    with at_work(home, opened, feed=feed, clock=lambda: fleet.now) as daemon:
        with pytest.raises(WireError):
            daemon.answer(b"no message")
        with pytest.raises(TryAgain), at_work(home, opened, feed=feed, clock=lambda: 0.0):
            pass

    assert home.ledger.exists()


def test_a_ledger_that_is_gone_is_not_begun_anew(fleet: Any, tmp_path: Path) -> None:
    """Once a plan was answered, what it spent has to be known."""
    home, opened = unlocked(fleet, tmp_path)
    feed = Feed(clock=lambda: 0.0)
    with at_work(home, opened, feed=feed, clock=lambda: 0.0):
        pass
    PlanFolder(home.plans, "a" * 64).keep(b"{}", b"", run="r", study="train", now_ms=0)
    for file in home.path.glob("ledger.sqlite*"):
        file.unlink()

    with pytest.raises(Refused, match="ledger_missing"), at_work(home, opened, feed=feed, clock=lambda: 0.0):
        pass


def test_a_ledger_put_back_from_a_backup_is_not_spent_from(fleet: Any, tmp_path: Path) -> None:
    """Whoever commits on the directory is remembered; the newest file is worked on again."""
    home, opened = unlocked(fleet, tmp_path)
    feed = Feed(clock=lambda: 0.0)
    with at_work(home, opened, feed=feed, clock=lambda: 0.0):
        pass
    backup, newest = tmp_path / "backup.sqlite", tmp_path / "newest.sqlite"
    shutil.copy(home.ledger, backup)
    with contextlib.closing(open_ledger(home.path)) as ledger:
        ledger.set_ceiling("ward", epsilon=None, delta=1e-5)
        claim = Claim(
            holding="ward", context="1", purpose="train", run="r", coordinator="c", fingerprint="f", events=(),
            protected=False,
        )  # fmt: skip
        ledger.reserve(claim)
        ledger.commit("1")
    shutil.move(home.ledger, newest)
    shutil.copy(backup, home.ledger)

    with (
        pytest.raises(Refused, match="ledger_rolled_back"),
        at_work(home, opened, feed=feed, clock=lambda: 0.0),
    ):
        pass

    shutil.move(newest, home.ledger)
    with at_work(home, opened, feed=feed, clock=lambda: 0.0):
        pass


ACTS = st.lists(
    st.tuples(st.sampled_from("ab"), st.sampled_from(["write", "erase"]), st.sampled_from(["run", "report", "plan"])),
    max_size=20,
)


@settings(max_examples=60, deadline=None)
@given(acts=ACTS)
def test_each_plan_sees_its_own_records_only(acts: list[tuple[str, str, str]]) -> None:
    """A second source: a dictionary for each plan."""
    vault = MemoryVault()
    parts = {name: PlanVault(vault, name * 64) for name in "ab"}
    expected: dict[str, dict[str, bytes]] = {"a": {}, "b": {}}

    for number, (plan, act, name) in enumerate(acts):
        if act == "write":
            parts[plan].write(name, bytes([number]))
            expected[plan][name] = bytes([number])
        else:
            parts[plan].erase(name)
            expected[plan].pop(name, None)

    for plan, part in parts.items():
        assert {n: part.read(n) for n in ("run", "report", "plan")} == {
            n: expected[plan].get(n) for n in ("run", "report", "plan")
        }
    assert vault.read("run") is None


@pytest.mark.parametrize("name", ["", "..", "a" * 63, "A" * 64, "a" * 63 + "/", "../" + "a" * 61])
def test_a_folder_is_named_by_a_hash_or_not_at_all(tmp_path: Path, name: str) -> None:
    """Whatever stands in a message."""
    with pytest.raises(WireError):
        PlanFolder(tmp_path, name)


def test_what_is_no_plan_of_this_site_is_not_listed(tmp_path: Path) -> None:
    """Files, links and other names."""
    PlanFolder(tmp_path, "a" * 64).keep(b"{}", b"", run="r", study="train", now_ms=0)
    (tmp_path / ("b" * 64)).write_text("")
    (tmp_path / ("c" * 64)).symlink_to(tmp_path / ("a" * 64))
    (tmp_path / "notes").mkdir()

    assert [plan.plan_sha256 for plan in all_plans(tmp_path)] == ["a" * 64]


def test_a_damaged_note_of_a_plan_is_named(tmp_path: Path) -> None:
    """It is not taken for a plan that was never here."""
    folder = PlanFolder(tmp_path, "a" * 64)
    folder.keep(b"{}", b"", run="r", study="train", now_ms=0)
    folder.note.write_text("{")

    with pytest.raises(DataError, match=r"life\.json"):
        folder.life()


def test_another_consortium_in_the_same_directory_is_refused(fleet: Any, tmp_path: Path) -> None:
    """And a damaged memory of the charter is no empty one."""
    file = tmp_path / "seen.json"
    require_newest(file, fleet.charter)

    with pytest.raises(Refused, match="other_consortium"):
        require_newest(file, dataclasses.replace(fleet.charter, consortium="another"))
    file.write_text("{")
    with pytest.raises(DataError, match=r"seen\.json"):
        require_newest(file, fleet.charter)


def test_the_newest_charter_is_remembered(fleet: Any, tmp_path: Path) -> None:
    """The control: the same and a later one pass."""
    file = tmp_path / "seen.json"
    later = dataclasses.replace(fleet.charter, version=2, previous=fleet.charter.hash.hex())

    require_newest(file, fleet.charter)
    require_newest(file, fleet.charter)
    require_newest(file, later)

    with pytest.raises(Refused, match="charter_rolled_back"):
        require_newest(file, fleet.charter)
