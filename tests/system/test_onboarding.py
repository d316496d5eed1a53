"""Three sites and a coordinator become a consortium by the documented commands."""

import json
import os
import pty
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ceremony import PASSPHRASE, SITES

from partsong.client.home.layout import SiteHome
from partsong.client.home.opened import open_site
from partsong.server.membership.home import CoordinatorHome
from partsong.server.membership.opened import open_coordinator

Call = Callable[..., Any]
TINY = Path(__file__).parents[1] / "fixtures" / "tiny-llama"


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: list[dict[str, str]]) -> Path:
    """A folder with records and a passphrase, in which commands run."""
    secret = tmp_path / "passphrase"
    secret.write_bytes(PASSPHRASE + b"\n")
    secret.chmod(0o600)
    (tmp_path / "records.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows * 2))
    monkeypatch.setenv("PARTSONG_PASSPHRASE_FILE", str(secret))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def done(ran: Any) -> Any:
    """The JSON of a command that succeeded."""
    assert ran.code == 0, ran.err
    return json.loads(ran.out)


def test_six_commands_make_a_consortium_of_three(call: Call, desk: Path) -> None:
    """Init, init, enrol, join, collect, join: then everyone has pinned the same charter and can connect."""
    invited = [argument for site in SITES for argument in ("--site", site)]
    made = done(
        call("coordinator", "init", "--dir", "c", "--consortium", "oncology", "--name", "localhost", *invited, "--json")
    )
    own, heard = {}, []
    for site in SITES:
        asked = done(
            call(
                "site", "init", "--dir", site, "--invite", f"{site}.invite.json", "--data", "records.jsonl",
                "--model", str(TINY), "--epsilon", "8", "--json", "data.max_length=48",
            )
        )  # fmt: skip
        assert (asked["records"], asked["kind"]) == (120, "prompt_completion")
        assert asked["coordinator_fingerprint"] == made["fingerprint"]
        own[site] = asked["fingerprint"]
        heard += ["--fingerprint", asked["fingerprint"]]
    requests = [f"{site}.request.json" for site in SITES]
    enrolled = done(call("coordinator", "enrol", *requests, *heard, "--draft", "--dir", "c", "--json"))
    assert enrolled["files"][-1] == "charter-1.draft.json"
    for site in SITES:
        everyone = [f"{who}={text}" for who, text in own.items() if who != site] + [
            f"COORDINATOR={made['fingerprint']}"
        ]
        compared = [part for text in everyone for part in ("--fingerprint", text)]
        steps = done(
            call("site", "join", f"{site}.reply.json", "charter-1.draft.json", *compared, "--dir", site, "--json")
        )
        assert [step["did"] for step in steps["done"]] == ["certificate", "cosigned"]
    cosigned = [f"{site}.cosigned.json" for site in SITES]
    assert done(call("coordinator", "charter", "collect", *cosigned[:2], "--dir", "c", "--json"))["missing"] == [
        "turku"
    ]
    published = done(call("coordinator", "charter", "collect", *cosigned, "--dir", "c", "--json"))
    for site in SITES:
        done(call("site", "join", published["charter"], "--dir", site, "--json"))

    coordinator = open_coordinator(CoordinatorHome(desk / "c"), PASSPHRASE)

    assert set(coordinator.sites) == set(SITES)
    opened = open_site(SiteHome(desk / "lyon"), PASSPHRASE)
    assert opened.charter == coordinator.charter
    assert opened.config.data.max_length == 48
    assert opened.config.data.path == str(desk / "records.jsonl")
    assert opened.policy.holdings["records"].epsilon == 8.0
    assert opened.policy.adapter.bases == (opened.config.model.sha256,)
    assert opened.policy.approval("train") == "manual"


def test_mistakes_leave_with_exit_code_2_and_nothing_half_made(call: Call, desk: Path) -> None:
    """Each names its place; no directory is made."""
    made = ("coordinator", "init", "--dir", "c", "--consortium", "oncology")
    assert call(*made, "--name", "localhost:7443").code == 2
    assert call(*made, "--name", "localhost", "--site", "../lyon").code == 2
    assert not (desk / "c").exists()
    assert call(*made, "--name", "localhost", "--site", "lyon").code == 0
    usual = ("site", "init", "--dir", "lyon", "--invite", "lyon.invite.json")
    for arguments, words in (
        (("--data", "none.jsonl", "--model", str(TINY)), "none.jsonl: found nothing"),
        (("--data", "records.jsonl", "--model", "nowhere"), "model.source"),
        (("--data", "records.jsonl", "--model", str(TINY), "data.promt_field=q"), "did you mean 'data.prompt_field'?"),
        (("--data", "records.jsonl", "--model", str(TINY), "data.prompt_field=q"), "records.jsonl"),
        (("--data", "records.jsonl", "--model", str(TINY), "--epsilon", "0"), "epsilon above 0"),
    ):
        ran = call(*usual, *arguments)
        assert (ran.code, ran.out) == (2, "")
        assert words in ran.err
        assert not (desk / "lyon").exists()
    (desk / "passphrase").chmod(0o644)
    ran = call(*usual, "--data", "records.jsonl", "--model", str(TINY))
    assert (ran.code, (desk / "lyon").exists()) == (2, False)
    assert "passphrase: found mode 0644" in ran.err
    assert PASSPHRASE.decode() not in ran.err


def test_a_draft_is_not_signed_where_nobody_can_be_asked(call: Call, joining: Any, desk: Path) -> None:
    """Without a terminal, --yes-i-compared or the fingerprints; it was shown on stderr all the same."""
    draft = str(joining.draft())
    lyon = str(joining.site("lyon").path)

    ran = call("site", "charter", "sign", draft, "--dir", lyon)

    assert (ran.code, ran.out) == (2, "")
    assert "zagreb joins" in ran.err
    assert "NEW: compare it" in ran.err
    assert "add --yes-i-compared" in ran.err
    assert not (desk / "lyon.cosigned.json").exists()
    assert call("site", "charter", "sign", draft, "--dir", lyon, "--yes-i-compared").code == 0
    assert (desk / "lyon.cosigned.json").exists()
    assert "version 1" in call("site", "charter", "show", "--dir", lyon).out


def test_a_site_renews_leaves_and_is_removed(call: Call, ceremony: Any, desk: Path) -> None:
    """Each by one command on its side."""
    coordinator, lyon = str(ceremony.home.path), str(ceremony.site("lyon").path)
    assert call("site", "renew", "--dir", lyon).code == 0
    assert call("coordinator", "enrol", "lyon.request.json", "--dir", coordinator).code == 0
    assert call("site", "join", "lyon.reply.json", "--dir", lyon).code == 0
    ceremony.join("zagreb")

    refused = call("site", "leave", "--dir", lyon)
    left = call("site", "leave", "--dir", lyon, "--yes")
    removed = call("coordinator", "remove", "lyon", "--revoke", "--dir", coordinator, "--json")

    assert (refused.code, left.code, removed.code) == (2, 0, 0)
    assert "partsong coordinator remove lyon" in left.out
    draft = json.loads((desk / json.loads(removed.out)["draft"]).read_text())
    assert [site["id"] for site in draft["charter"]["sites"]] == ["porto", "turku", "zagreb"]
    assert draft["charter"]["revoked"] == [ceremony.signers["lyon"].public_key.hex()]


def test_at_a_terminal_the_passphrase_is_typed_twice_and_not_shown(command: list[str], tmp_path: Path) -> None:
    """A real process on a pseudo-terminal."""
    parent, child = pty.openpty()
    arguments = ["coordinator", "init", "--dir", "c", "--consortium", "oncology", "--name", "localhost", "--json"]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PARTSONG_")}
    with subprocess.Popen(
        [*command, *arguments],
        cwd=tmp_path,
        env=environment,
        stdin=child,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as running:
        assert running.stderr is not None
        said = b""
        for prompt in (b"passphrase: ", b"again: "):
            while not said.endswith(prompt) and (letter := running.stderr.read(1)):
                said += letter
            os.write(parent, b"correct horse battery\n")
        out, rest = running.communicate(timeout=60)

    os.close(child)
    os.close(parent)
    assert running.returncode == 0, said + rest
    assert len(json.loads(out)["fingerprint"].split()) == 8
    assert b"horse" not in out + said + rest
    assert open_coordinator(CoordinatorHome(tmp_path / "c"), b"correct horse battery").charter is None


@pytest.mark.parametrize(
    "words",
    [
        ("coordinator",), ("coordinator", "init"), ("coordinator", "import"), ("coordinator", "invite"),
        ("coordinator", "enrol"), ("coordinator", "remove"), ("coordinator", "renew"), ("coordinator", "charter"),
        ("coordinator", "charter", "draft"), ("coordinator", "charter", "collect"), ("site", "init"), ("site", "join"),
        ("site", "renew"), ("site", "new-vault"), ("site", "leave"), ("site", "charter", "sign"), ("site", "charter", "show"),
    ],
)  # fmt: skip
def test_every_command_explains_itself(call: Call, words: tuple[str, ...]) -> None:
    """Help ends with 0."""
    ran = call(*words, "--help")

    assert ran.code == 0
    assert "Usage" in ran.out
