"""A coordinator's directory goes to another machine in the middle of a run; a site's comes back without its memory."""

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from ceremony import PASSPHRASE
from office import Office
from typer.testing import CliRunner
from wiring import Killed

from partsong.client.budget.ledger import Claim
from partsong.client.cli import site
from partsong.client.home.layout import SiteHome
from partsong.client.home.ledger import open_ledger
from partsong.client.home.lock import held
from partsong.client.home.opened import open_identity as open_site_identity
from partsong.client.home.opened import open_site
from partsong.client.membership import backup as of_site
from partsong.client.membership import onboarding as at_site
from partsong.common.build import to_tree
from partsong.common.control.socket_file import claimed
from partsong.common.deployment import CoordinatorConfig
from partsong.common.errors import TryAgain
from partsong.common.plan import Plan
from partsong.common.privacy.accounting import StepEvents
from partsong.server.membership import backup
from partsong.server.membership.home import CoordinatorHome
from partsong.server.membership.opened import open_coordinator
from partsong.simulations.verify.run import verify


def test_a_run_that_was_killed_goes_on_where_the_backup_was_restored(
    tmp_path: Path, make_masked_plan: Callable[..., Plan]
) -> None:
    """Backed up in the middle of a round; on the other machine the same plan is played to an adapter that verifies."""
    office = Office(tmp_path, make_masked_plan())
    office.home.config.parent.mkdir(parents=True, exist_ok=True)
    office.home.config.write_text(yaml.safe_dump(to_tree(CoordinatorConfig(consortium="trial"))))
    office.hospitals.lines.kill_at = 47
    daemon = office.daemon()
    daemon.submit(office.job())
    with pytest.raises(Killed):
        daemon.step()
    office.hospitals.lines.kill_at = None
    plan = office.only().plan.read_bytes()

    backup.back_up(office.home, tmp_path / "hub.tar", now_ms=1)
    office.home.path.rename(tmp_path / "lost")
    office.home = CoordinatorHome(tmp_path / "elsewhere")
    backup.restore(tmp_path / "hub.tar", office.home)
    assert office.daemon().step()

    run = office.only()
    rounds = [json.loads(line)["round"] for line in run.metrics.read_text().splitlines()]
    assert (run.told().state, run.plan.read_bytes(), rounds) == ("finished", plan, [1, 2, 3])
    assert not verify(run.path).wrong


def test_the_restored_coordinator_is_who_it_was(ceremony: Any, tmp_path: Path) -> None:
    """Key, charter, certificates and the sites that may connect."""
    before = open_coordinator(ceremony.home, PASSPHRASE)

    contents = backup.back_up(ceremony.home, tmp_path / "hub.tar", now_ms=1)
    home = CoordinatorHome(tmp_path / "elsewhere")
    backup.restore(tmp_path / "hub.tar", home)
    after = open_coordinator(home, PASSPHRASE)

    assert contents.name == "oncology"
    assert after.signer.public_key == before.signer.public_key
    assert (after.charter, after.sites, after.config) == (before.charter, before.sites, before.config)
    assert home.tls.joinpath("server.key").read_bytes() == ceremony.home.tls.joinpath("server.key").read_bytes()


def test_a_restored_site_has_its_identity_and_nothing_of_its_memory(ceremony: Any, tmp_path: Path) -> None:
    """No vault, no plans, no messages; with a new vault it can be opened, under the charter it had."""
    home: SiteHome = ceremony.site("lyon")
    for name in ("vault.key", "inbox/x", "outbox/x", "plans/x", "unfinished/x"):
        (home.path / name).parent.mkdir(exist_ok=True)
        (home.path / name).write_bytes(b"memory")
    new = SiteHome(tmp_path / "lyon")

    of_site.back_up(home, tmp_path / "lyon.tar", now_ms=1)
    of_site.restore(tmp_path / "lyon.tar", new)

    there = {path.name for path in new.path.iterdir()}
    assert there == {"site.yaml", "policy.yaml", "identity.json", "enrolment", "tls", "charters"}
    assert open_site_identity(new, PASSPHRASE).public_key == ceremony.signers["lyon"].public_key
    at_site.new_vault(new, PASSPHRASE)
    opened = open_site(new, PASSPHRASE)
    assert opened.charter is not None
    assert opened.charter.charter.version == 1


def test_a_restored_site_goes_on_with_the_budget_that_is_left(ceremony: Any, tmp_path: Path) -> None:
    """By the command that a person uses; the ledger is a new one, its first claims are the lost one's."""
    home: SiteHome = ceremony.site("lyon")
    events = (StepEvents(sampling_rate=0.05, noise_multiplier=1.0, steps=20),)
    claim = Claim(
        holding="ward", context="1", purpose="train", run="r", coordinator="c", fingerprint="f", events=events
    )
    with contextlib.closing(open_ledger(home)) as ledger:
        ledger.set_ceiling("ward", epsilon=8.0, delta=1e-5)
        ledger.reserve(claim)
        ledger.commit("1")
        spent, heads = ledger.spent("ward"), ledger.head
    made = of_site.back_up(home, tmp_path / "lyon.tar", now_ms=1)
    assert not {"ledger.sqlite", "ledger-head.json"} & {entry.path for entry in made.files}

    ran = CliRunner().invoke(site, ["restore", str(tmp_path / "lyon.tar"), "--dir", str(tmp_path / "lyon")])

    assert (ran.exit_code, "begins with what was spent" in ran.output) == (0, True)
    with contextlib.closing(open_ledger(SiteHome(tmp_path / "lyon"))) as ledger:
        assert ledger.spent("ward") == spent
        assert not ledger.holds(heads)


def test_while_a_daemon_runs_nothing_is_copied(ceremony: Any, tmp_path: Path) -> None:
    """What it writes meanwhile would be in the copy by halves."""
    with claimed(ceremony.home.socket), pytest.raises(TryAgain):
        backup.back_up(ceremony.home, tmp_path / "hub.tar", now_ms=1)
    with held(ceremony.site("lyon").lock), pytest.raises(TryAgain):
        of_site.back_up(ceremony.site("lyon"), tmp_path / "lyon.tar", now_ms=1)

    assert not list(tmp_path.glob("*.tar"))


def test_a_coordinator_is_not_restored_from_a_sites_backup(ceremony: Any, tmp_path: Path) -> None:
    """Nor the other way round."""
    of_site.back_up(ceremony.site("lyon"), tmp_path / "lyon.tar", now_ms=1)

    with pytest.raises(Exception, match="one of a site"):
        backup.restore(tmp_path / "lyon.tar", CoordinatorHome(tmp_path / "elsewhere"))

    assert not (tmp_path / "elsewhere").exists()
