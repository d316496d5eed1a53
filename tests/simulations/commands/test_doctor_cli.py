"""`partsong doctor` on directories that the documented commands have made."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from loopback import Pair, closed_port, coordinator
from typer.testing import CliRunner

from partsong.client.doctor.checks import Around as SiteAround
from partsong.client.doctor.checks import site_checks
from partsong.client.home.layout import SiteHome
from partsong.client.home.opened import read_config
from partsong.common.doctor.finding import Check, Finding, fail, ok, run, skipped
from partsong.common.errors import InputError
from partsong.server.doctor.checks import Around, coordinator_checks
from partsong.server.membership.home import CoordinatorHome
from partsong.server.membership.opened import read_config as read_coordinator
from partsong.simulations.cli import QUIET, app
from partsong.simulations.commands import doctor_table
from partsong.simulations.commands.doctor_cli import checks_of

FIXTURES = Path(__file__).parents[2] / "fixtures"
NOTES = Path(__file__).parents[3] / "docs" / "examples" / "notes.jsonl"
SITES = ("north", "south", "west")
PASSPHRASE = b"correct horse battery"


def partsong(*words: str | Path) -> Any:
    """Run a command that prints JSON and must succeed."""
    result = CliRunner().invoke(app, [*map(str, words), "--json"])
    assert result.exit_code == 0, (words, result.output, result.exception)
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def consortium(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A coordinator and three sites with a charter, in `hub/` and a folder for each site."""
    root = tmp_path_factory.mktemp("consortium")
    mail, secret = root / "mail", root / "passphrase"
    mail.mkdir()
    secret.write_bytes(PASSPHRASE)
    secret.chmod(0o600)
    hub = ("--dir", root / "hub", "--passphrase-file", secret, "--out", mail)
    wanted = [word for site in SITES for word in ("--site", site)]
    partsong("coordinator", "init", "--consortium", "lungs", "--name", "localhost", *wanted, *hub)
    heard = []
    for site in SITES:
        own = ("--dir", root / site, "--passphrase-file", secret, "--out", mail)
        invite = ("--invite", mail / f"{site}.invite.json", "--data", NOTES, "--model", FIXTURES / "tiny-llama")
        heard += ["--fingerprint", partsong("site", "init", *invite, *own)["fingerprint"]]
    requests = [mail / f"{site}.request.json" for site in SITES]
    draft = partsong("coordinator", "enrol", *requests, *heard, "--draft", *hub)["files"][-1]
    for site in SITES:
        own = ("--dir", root / site, "--passphrase-file", secret, "--out", mail)
        partsong("site", "join", mail / f"{site}.reply.json", draft, "--yes-i-compared", *own)
    signed = sorted(mail.glob("*.cosigned.json"))
    charter = partsong("coordinator", "charter", "collect", *signed, "--dir", root / "hub", "--out", mail)["charter"]
    for site in SITES:
        partsong("site", "join", charter, "--dir", root / site, "--passphrase-file", secret)
    return root


def asked(checks: tuple[Check, ...], *names: str) -> dict[str, Finding]:
    """Run the named checks and what they need."""
    wanted = set(names)
    for check in reversed(checks):
        if check.name in wanted:
            wanted |= set(check.needs)
    return {finding.name: finding for finding in run(check for check in checks if check.name in wanted)}


def at_site(folder: Path, **changes: Any) -> tuple[Check, ...]:
    config = replace(read_config(SiteHome(folder)), **changes)
    around = SiteAround(environment=QUIET, switches=QUIET, passphrase=lambda: PASSPHRASE, timeout_s=5)
    return site_checks(SiteHome(folder), config, around)


def at_hub(folder: Path, **changes: Any) -> tuple[Check, ...]:
    config = replace(read_coordinator(CoordinatorHome(folder)), **changes)
    around = Around(environment=QUIET, switches=QUIET, passphrase=lambda: PASSPHRASE, timeout_s=5)
    return coordinator_checks(CoordinatorHome(folder), config, around)


FILES = ("identity", "charter", "policy", "own certificate", "disk", "open files", "switches", "ports")
WAY = ("name", "route", "proxy", "tls", "interception", "tls version", "coordinator's certificate", "accepted", "clock")


def test_a_site_that_was_made_by_the_commands_is_in_order(consortium: Path) -> None:
    """Its files are right, and a coordinator with the enrolled certificate is recognised on the wire."""
    tls = consortium / "hub" / "tls"
    pair = Pair(tls / "server.crt", tls / "server.key")
    with coordinator(pair, clients=tls / "ca.crt") as port:
        found = asked(at_site(consortium / "north", coordinator=f"localhost:{port}"), *FILES, *WAY)

    states = {name: finding.seen.state for name, finding in found.items()}
    assert states.pop("ports") == "skipped"
    assert states.pop("policy") == "warn"  # closed, as init leaves it
    assert set(states.values()) == {"ok"}, found


def test_without_a_coordinator_the_rest_is_still_looked_at(consortium: Path) -> None:
    """A closed port fails once; what stands on it is skipped, what does not is done."""
    found = asked(at_site(consortium / "north", coordinator=f"localhost:{closed_port()}"), *FILES, *WAY)

    assert found["route"].seen.state == "fail"
    assert {found[name].seen.state for name in ("tls", "interception", "accepted", "clock")} == {"skipped"}
    assert found["identity"].seen.state == "ok"


def test_a_restored_directory_of_another_site_is_found(consortium: Path, tmp_path: Path) -> None:
    """Its key is not the one that the charter lists under this name, and its certificate has another key."""
    shutil.copytree(consortium / "north", tmp_path / "north")
    shutil.copy(consortium / "south" / "identity.json", tmp_path / "north" / "identity.json")
    shutil.copy(consortium / "south" / "tls" / "site.key", tmp_path / "north" / "tls" / "site.key")

    found = asked(at_site(tmp_path / "north"), "charter", "own certificate")

    assert "another key for north" in found["charter"].seen.found
    assert "not the key" in found["own certificate"].seen.found


def test_a_policy_that_names_no_holding_of_this_site_is_found(consortium: Path, tmp_path: Path) -> None:
    """A holding under another name is not allowed; a closed policy is a warning."""
    shutil.copytree(consortium / "north", tmp_path / "north")
    text = "holdings:\n  records: {epsilon: 4.0, delta: 1.0e-5, purposes: {train: 4.0}}\n"
    (tmp_path / "north" / "policy.yaml").write_text(text)

    found = asked(at_site(tmp_path / "north", holding="elsewhere"), "policy")

    assert "no holding 'elsewhere'" in found["policy"].seen.found


def test_a_coordinator_that_was_made_by_the_commands_is_in_order(consortium: Path) -> None:
    """The public port shows its certificate and lets no stranger in."""
    tls = consortium / "hub" / "tls"
    names = ("identity", "charter", "own certificate", "authority", "names", "public port", "stranger", "switches")
    with coordinator(Pair(tls / "server.crt", tls / "server.key"), clients=tls / "ca.crt") as port:
        found = asked(at_hub(consortium / "hub", port=port), *names)

    assert {finding.seen.state for finding in found.values()} == {"ok"}, found


def test_a_public_port_that_asks_nobody_for_a_certificate_is_found(consortium: Path) -> None:
    """As behind a load balancer that ends TLS itself."""
    tls = consortium / "hub" / "tls"
    with coordinator(Pair(tls / "server.crt", tls / "server.key")) as port:
        found = asked(at_hub(consortium / "hub", port=port), "stranger")

    assert "answers a stranger" in found["stranger"].seen.found


def test_a_name_that_is_not_in_the_certificate_is_found(consortium: Path) -> None:
    """Somebody added it to coordinator.yaml and did not renew."""
    found = asked(at_hub(consortium / "hub", names=("localhost", "hub.example")), "names")

    assert found["names"].seen.found.startswith("hub.example not in the certificate")


@pytest.mark.parametrize("side", ["site", "coordinator"])
def test_a_check_needs_earlier_checks_only(consortium: Path, side: str) -> None:
    """Names are unique, and no check waits for one that comes later."""
    checks = at_site(consortium / "north") if side == "site" else at_hub(consortium / "hub")

    names = [check.name for check in checks]
    assert len(set(names)) == len(names)
    assert all(set(check.needs) <= set(names[:place]) for place, check in enumerate(checks))


def test_the_side_follows_from_the_directory(consortium: Path, tmp_path: Path) -> None:
    """A directory of neither is bad input."""
    site = checks_of(consortium / "west", passphrase=None, environment={})
    hub = checks_of(consortium / "hub", passphrase=None, environment={})

    assert "gradients" in [check.name for check in site]
    assert "stranger" in [check.name for check in hub]
    with pytest.raises(InputError, match="neither"):
        checks_of(tmp_path, passphrase=None, environment={})


def test_the_command_prints_json_and_fails_when_something_failed(consortium: Path, monkeypatch) -> None:
    """Nothing listens at the coordinator's port, so the exit code is 1; every finding is whole."""
    monkeypatch.delenv("PARTSONG_PASSPHRASE_FILE", raising=False)
    for name, value in QUIET.items():
        monkeypatch.setenv(name, value)
    words = ["doctor", "--dir", str(consortium / "hub"), "--passphrase-file", str(consortium / "passphrase")]
    text = (consortium / "hub" / "coordinator.yaml").read_text()
    (consortium / "hub" / "coordinator.yaml").write_text(text + f"\nport: {closed_port()}\n")

    result = CliRunner().invoke(app, [*words, "--json"])
    plain = CliRunner().invoke(app, words)
    (consortium / "hub" / "coordinator.yaml").write_text(text)

    tree = json.loads(result.stdout)
    found = {finding["name"]: finding for finding in tree["findings"]}
    assert (result.exit_code, plain.exit_code, tree["ok"]) == (1, 1, False)
    assert found["public port"]["state"] == "fail"
    assert found["identity"]["state"] == "ok"
    assert set(found["identity"]) == {"name", "state", "found", "cause", "remedy", "took_s"}
    assert "fail    public port: " in plain.stdout
    assert "        remedy: " in plain.stdout


def test_doctor_itself_loads_no_torch() -> None:
    """A broken driver must be found, not met: only the processes that doctor starts import torch."""
    modules = "partsong.client.doctor.checks, partsong.client.doctor.torch_process, partsong.server.doctor.checks"
    looks = f"import sys, {modules}; sys.exit(any(name in sys.modules for name in ('torch', 'transformers')))"

    done = subprocess.run([sys.executable, "-P", "-c", looks], check=False)

    assert done.returncode == 0


def test_the_summary_counts_what_is_there() -> None:
    """States that nothing has are not named."""
    seen = [ok("x"), ok("y"), fail("z", cause="c", remedy="r"), skipped("w")]
    found = [Finding(name=str(number), seen=one, took_s=0.0) for number, one in enumerate(seen)]

    assert doctor_table.summary(found) == "2 ok, 1 failed, 1 skipped"
