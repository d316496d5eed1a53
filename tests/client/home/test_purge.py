"""A purge erases old messages and ended plans, and nothing else whatever stands in the directory."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from partsong.client.daemon.plan_folder import PlanFolder
from partsong.client.home.layout import SiteHome
from partsong.client.home.purge import MS_PER_DAY, purge
from partsong.common.errors import Refused

NOW_S = 2_000_000_000.0
DAY_S = 86_400
SACRED = ("ledger.sqlite", "vault/a.sealed", "vault.key", "identity.json", "charters/1.json", "approvals/x.json",
          "adapters/h/w", "tls/site.key", "unfinished/p", "policy.yaml")  # fmt: skip


def write(path: Path, *, days_old: float = 1000) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    os.utime(path, (NOW_S - days_old * DAY_S,) * 2)
    return path


def plan(home: SiteHome, name: str, *, ended_days_ago: int | None) -> PlanFolder:
    folder = PlanFolder(home.plans, name * 64)
    folder.keep(b"{}", b"v", run="r", study="train", now_ms=0)
    write(folder.journal)
    if ended_days_ago is not None:
        folder.ended(now_ms=int(NOW_S * 1000) - ended_days_ago * MS_PER_DAY)
    return folder


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_ended_plans_and_old_messages_go_and_all_else_stays(tmp_path: Path) -> None:
    """By hand: two plans that stay, one that goes, of which its end is remembered."""
    home = SiteHome(tmp_path)
    for name in SACRED:
        write(tmp_path / name)
    old, new = write(home.outbox / "1" / "old"), write(home.inbox / "new", days_old=3)
    ended, lately, running = plan(home, "a", ended_days_ago=40), plan(home, "b", ended_days_ago=3), plan(
        home, "c", ended_days_ago=None
    )  # fmt: skip

    done = purge(home, clock=lambda: NOW_S)

    assert (done.plans, done.messages) == (("a" * 64,), 1)
    assert not old.exists()
    assert new.exists()
    assert files(ended.path) == {"life.json"}
    assert lately.proposal() is not None
    assert running.journal.exists()
    assert all((tmp_path / name).exists() for name in SACRED)
    life = ended.life()
    assert life is not None
    assert life.purged_ms == int(NOW_S * 1000)
    assert purge(home, clock=lambda: NOW_S).plans == ()


def test_a_plan_that_never_ended_goes_when_it_is_named(tmp_path: Path) -> None:
    """And no other."""
    home = SiteHome(tmp_path)
    plan(home, "a", ended_days_ago=None)
    plan(home, "b", ended_days_ago=None)

    assert purge(home, clock=lambda: NOW_S, also=("b" * 64,)).plans == ("b" * 64,)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    names=st.lists(
        st.tuples(
            st.sampled_from(["inbox", "outbox", "vault", "charters", "adapters", "log", "."]),
            st.sampled_from(["vault", "ledger.sqlite", "a", "b"]),
            st.floats(0, 100),
        ),
        max_size=12,
    ),
    days=st.integers(0, 60),
)
def test_nothing_outside_of_the_three_folders_is_ever_touched(
    tmp_path: Path, names: list[tuple[str, str, float]], days: int
) -> None:
    """Whatever files are called, and however old they are."""
    home = SiteHome(tmp_path / str(len(list(tmp_path.iterdir()))))
    for folder, name, old in names:
        write(home.path / folder / f"{name}.x", days_old=old)
    before = files(home.path) if home.path.exists() else set()

    purge(home, clock=lambda: NOW_S, keep_days=days)

    after = files(home.path) if home.path.exists() else set()
    assert {name for name in before if not name.startswith(("inbox/", "outbox/"))} <= after
    ages = {f"{folder}/{name}.x": old for folder, name, old in names if folder in ("inbox", "outbox")}
    kept = max(days, 30)
    assert {name for name, old in ages.items() if old < kept - 0.01} <= after
    assert not {name for name, old in ages.items() if old > kept + 0.01} & after


@pytest.mark.parametrize("name", ["inbox", "outbox", "plans"])
def test_a_link_in_place_of_a_folder_is_refused(tmp_path: Path, name: str) -> None:
    """It could lead to the vault."""
    home = SiteHome(tmp_path)
    secret = write(home.vault / "a.sealed")
    (tmp_path / name).symlink_to(home.vault)

    with pytest.raises(Refused, match="purge_link"):
        purge(home, clock=lambda: NOW_S)

    assert secret.exists()


def test_a_link_among_the_messages_is_erased_and_not_followed(tmp_path: Path) -> None:
    """What it leads to stays."""
    home = SiteHome(tmp_path)
    secret = write(home.vault / "a.sealed")
    home.inbox.mkdir()
    (home.inbox / "link").symlink_to(secret)
    (home.inbox / "folder").symlink_to(home.vault)
    for name in ("link", "folder"):
        os.utime(home.inbox / name, (0, 0), follow_symlinks=False)

    purge(home, clock=lambda: NOW_S)

    assert secret.exists()
    assert not list(home.inbox.iterdir())
