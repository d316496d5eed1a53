"""The files for systemd, containers and Slurm are well formed, closed, and filled."""

import configparser
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from partsong.common.errors import InputError
from partsong.simulations.cli import app
from partsong.simulations.commands.deploy import fill

SIDES = ("site", "coordinator")
UNIT = {
    "PARTSONG": "/bin/true",
    "DIR": "/srv/site",
    "USER": "partsong",
    "STATE_DIRECTORY": "",
    "PASSPHRASE_FILE": "/etc/partsong/passphrase",
    "PROXY": "",
    "HEALTH_PORT": "",
    "DENY": "",
    "ALLOW": "",
}


def printed(*words: str) -> str:
    result = CliRunner().invoke(app, ["deploy", *words])
    assert result.exit_code == 0, result.output
    return result.stdout


def keys_of(unit: str) -> configparser.SectionProxy:
    parser = configparser.ConfigParser(strict=True, interpolation=None)
    parser.optionxform = str
    parser.read_string(unit)
    return parser["Service"]


@pytest.mark.parametrize("side", SIDES)
def test_units_are_hardened(side: str) -> None:
    """Each of these keys closes something; the one that is left open says why in the line above."""
    unit = printed("systemd", side)

    keys = keys_of(unit)
    assert keys["ProtectSystem"] == "strict"
    assert keys["NoNewPrivileges"] == keys["PrivateTmp"] == keys["RestrictSUIDSGID"] == "yes"
    assert keys["CapabilityBoundingSet"] == ""
    assert (keys["Type"], keys["Restart"], keys["UMask"]) == ("notify", "on-failure", "0077")
    assert int(keys["WatchdogSec"]) > 0
    assert keys["LoadCredential"] == f"partsong-passphrase:/etc/partsong/{side}.passphrase"
    assert keys["StateDirectory"] == f"partsong-{side}"
    assert re.search(r"# .*\n(# .*\n)?MemoryDenyWriteExecute=no", unit)


def test_a_site_may_bind_no_port_but_the_one_that_was_opened() -> None:
    """The coordinator has a public port and is not held to it."""
    assert keys_of(printed("systemd", "site"))["SocketBindDeny"] == "any"
    assert "SocketBindAllow" not in keys_of(printed("systemd", "site"))
    assert keys_of(printed("systemd", "site", "--health-port", "9000"))["SocketBindAllow"] == "tcp:9000"
    assert "SocketBindDeny" not in keys_of(printed("systemd", "coordinator"))


def test_packets_may_be_held_to_one_address() -> None:
    """Loopback stays open beside it."""
    keys = keys_of(printed("systemd", "site", "--only", "192.0.2.0/24"))

    assert (keys["IPAddressDeny"], keys["IPAddressAllow"]) == ("any", "localhost 192.0.2.0/24")
    assert "IPAddressDeny" not in keys_of(printed("systemd", "site"))


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")
def test_systemd_itself_accepts_the_units(side: str, tmp_path: Path) -> None:
    """Its own checker has nothing to say, and its score of exposure is below 2 of 10."""
    unit = tmp_path / f"partsong-{side}.service"
    unit.write_text(fill(unit.name, UNIT))

    verified = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False)
    scored = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=20", unit], capture_output=True, check=False
    )

    assert (verified.returncode, verified.stderr) == (0, "")
    assert scored.returncode == 0


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")
def test_systemd_would_have_found_a_mistake(tmp_path: Path) -> None:
    """The control: a key that does not exist is reported."""
    unit = tmp_path / "partsong-site.service"
    unit.write_text(fill(unit.name, UNIT).replace("ProtectSystem=", "ProtectSytem="))

    verified = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False)

    assert "ProtectSytem" in verified.stderr


def test_compose_is_read_only_without_rights_and_a_site_has_no_ports() -> None:
    """Anchors are resolved by the parser."""
    tree = yaml.safe_load(printed("compose", "--gpu"))

    for service in tree["services"].values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert not service["user"].startswith("0")
    assert "ports" not in tree["services"]["site"]
    assert tree["services"]["coordinator"]["ports"] == ["7443:7443"]
    assert tree["services"]["site"]["gpus"] == "all"
    assert "gpus" not in yaml.safe_load(printed("compose"))["services"]["site"]


def test_the_image_runs_as_a_number_that_is_not_root() -> None:
    """The last USER counts."""
    users = re.findall(r"^USER (.*)$", printed("container"), re.MULTILINE)

    assert users == ["10001:10001"]


def test_the_batch_script_parses_and_asks_to_be_run_again() -> None:
    """bash itself reads it."""
    script = printed("slurm", "--partition", "a100", "--proxy", "http://proxy:3128")

    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    assert "#SBATCH --partition=a100\n" in script
    assert "export HTTPS_PROXY=http://proxy:3128\n" in script
    assert "HTTPS_PROXY=" not in printed("slurm")


def test_no_gap_is_left_and_a_line_without_a_value_goes() -> None:
    """What looks like a gap in a comment would be one."""
    every = [printed("systemd", side) for side in SIDES] + [printed(k) for k in ("container", "compose", "slurm")]

    assert not any(re.search(r"@[A-Z_]+@", text) for text in every)
    assert "Environment=" not in fill("partsong-site.service", UNIT)


@settings(deadline=None, max_examples=50)
@given(st.text(alphabet=" \t\n\"'\\$%#@`&|;<>", min_size=1, max_size=3))
def test_values_that_mean_something_to_a_shell_or_a_unit_are_refused(bad: str) -> None:
    """Anywhere in the value."""
    with pytest.raises(InputError, match="--user"):
        fill("partsong-site.service", UNIT | {"USER": f"part{bad}song"})
