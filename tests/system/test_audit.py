"""`partsong audit` as a user calls it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from partsong.client.dp.release import noisy

Call = Callable[..., Any]

PRIVATE = ("privacy=dp", "seed=null", "privacy.epsilon=6", "privacy.delta=1e-3", "cohort.minimum=1")
SMALL = ("audit.canaries=40", "audit.step_trials=300", "audit.texts=20", "rounds=1")
PUBLIC = "audit.records=synthetic"


def test_an_audit_prints_a_table_and_writes_the_same_facts(call: Call, usual: list[str], tmp_path: Path) -> None:
    """Bound beside claim, estimators with what they assume, numbers of canaries, confidence, and what is not shown."""
    ran = call("audit", *usual, *PRIVATE, *SMALL, PUBLIC)

    (file,) = (tmp_path / "runs").glob("audit-*.json")
    facts = json.loads(file.read_text())
    assert (ran.code, facts["passed"], facts["confidence"]) == (0, True, 0.999)
    assert [b["name"] for b in facts["bounds"]] == ["single steps", "one run", "one run, f-DP"]
    assert all(b["epsilon"] < b["claim"] for b in facts["bounds"])
    steps, one_run, f_dp = facts["bounds"]
    assert steps["claim"] == f_dp["claim"] == facts["claim"]["epsilon"] == pytest.approx(6, abs=0.1)
    assert one_run["delta"] < 1e-5 < steps["delta"]  # the one-run theorem needs a smaller one, and its claim is larger
    assert one_run["claim"] > 7
    assert facts["claim"]["unit"] == "record"
    assert (facts["rehearsed"]["canaries"], facts["rehearsed"]["others"]) == (40, 50)
    assert set(facts["memory"]["verbatim"]) == {"in", "out"}
    for part in (
        "confidence 99.90% over all tests",
        "claim: epsilon 5.99",
        "assumes nothing but the coins",
        "canaries",
        "What this does not show:",
        "claim not contradicted",
        f"json: {file}",
    ):
        assert part in ran.out
    assert "one canary each" in ran.err
    assert "rehearsal of 2 steps with 40 gradient canaries and 20 records" in ran.err


def test_a_broken_engine_fails_with_exit_code_1_after_its_report(
    call: Call, usual: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The facts are on stdout and on disk, the verdict on stderr."""
    monkeypatch.setattr(
        "partsong.client.dp.optimizer.noisy", lambda sum_N, *, std, kind: noisy(sum_N, std=std / 3, kind=kind)
    )
    out = tmp_path / "audit.json"

    ran = call("audit", *usual, *PRIVATE, *SMALL, PUBLIC, "audit.texts=0", "--json", "--out", str(out))

    facts = json.loads(ran.out)
    assert ran.code == 1
    assert (facts["passed"], facts["memory"], facts["file"]) == (False, None, str(out))
    assert {"single steps", "noise of the engine", "noise of the loop"} <= set(facts["failed"])
    assert json.loads(out.read_text())["failed"] == facts["failed"]
    assert "error: audit: found single steps, noise of the engine, noise of the loop against the claim" in ran.err


def test_records_that_nobody_declared_are_refused(call: Call, usual: list[str], tmp_path: Path) -> None:
    """With the reason, the remedy, and nothing written."""
    ran = call("audit", *usual, *PRIVATE, *SMALL)

    assert ran.code == 2
    assert "refused by rule private_records_in_audit: an audit trains on its records" in ran.err
    assert "audit.records=public or audit.records=synthetic" in ran.err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("privacy=none", "privacy.mode: found none, expected dp; without privacy there is no claim to audit"),
        ("audit.canary=4", "did you mean"),
        ("audit.canaries=3", "canaries between 20 and 100000, not 3"),
        ("audit.canaries=9000", "audit.canaries: found 9000 for 4608 trained numbers"),
    ],
)
def test_wrong_settings_are_answered_by_name(call: Call, usual: list[str], override: str, words: str) -> None:
    """Exit code 2, as for a simulation."""
    ran = call("audit", *usual, *PRIVATE, "audit.step_trials=100", PUBLIC, override)

    assert ran.code == 2
    assert words in ran.err


def test_a_file_that_exists_is_not_overwritten(call: Call, usual: list[str], tmp_path: Path) -> None:
    """Found before any work is done."""
    (tmp_path / "old.json").write_text("mine")

    ran = call("audit", *usual, *PRIVATE, PUBLIC, "--out", str(tmp_path / "old.json"))

    assert ran.code == 2
    assert (tmp_path / "old.json").read_text() == "mine"


def test_the_adapter_of_a_run_is_attacked_with_its_own_records(call: Call, usual: list[str], tmp_path: Path) -> None:
    """Training records against held-out ones; nothing passes or fails."""
    held_out = next(o.removeprefix("data.path=") for o in usual if o.startswith("data.path="))
    assert call("simulate", *usual, "rounds=1", f"data.held_out={held_out}").code == 0
    (run,) = (tmp_path / "runs").iterdir()

    refused = call("audit", "--adapter", str(run))
    ran = call("audit", "--adapter", str(run), PUBLIC, "--json")

    facts = json.loads(ran.out)
    assert (refused.code, ran.code) == (2, 0)
    assert "private_records_in_audit" in refused.err
    by_loss, by_ratio = facts["memory"]["attacks"]
    assert (by_loss["members"], by_loss["others"], facts["private"]) == (60, 60, False)
    # The held-out records are the training records here, so no attack can tell them apart.
    assert by_loss["auc"]["value"] == by_ratio["auc"]["value"] == 0.5
    assert Path(facts["file"]).parent == run
    assert "a bound on epsilon: no coin decided who was in" in facts["not_shown"]


def test_a_run_takes_no_settings(call: Call, tmp_path: Path) -> None:
    """What would be ignored is an error."""
    ran = call("audit", "--adapter", str(tmp_path), "rounds=3")

    assert ran.code == 2
    assert "beside --adapter there is nothing else to set" in ran.err
