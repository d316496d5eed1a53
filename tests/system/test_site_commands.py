"""What a site's operator does at the terminal, over the files of a site's directory."""

import csv
import io
import json
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from partsong.client.budget.books import Grant
from partsong.client.budget.ledger import Claim, Ledger
from partsong.client.rules.approval import Approvals
from partsong.common.plan import Plan
from partsong.common.privacy.accounting import StepEvents
from partsong.common.privacy.terms import DpPlan

Call = Callable[..., Any]
EVENT = StepEvents(sampling_rate=0.05, noise_multiplier=0.45, steps=2)
NEW_YEAR_2200 = 7_258_118_400.0
"""The commands look at the real clock, which is never before the newest entry's time: a far one makes it stand still."""


@pytest.fixture
def site(tmp_path: Path, make_plan: Callable[..., Plan], make_dp: Callable[..., DpPlan]) -> Path:
    """A site that has spent something, agreed to one plan, and has another one waiting."""
    folder = tmp_path / "site"
    folder.mkdir()
    ledger = Ledger(folder / "ledger.sqlite", clock=lambda: NEW_YEAR_2200)
    grant = Grant(epsilon=20.0, delta=1e-5, purposes={"train": 15.0}, per_quarter=10.0, unfinished_per_day=4)
    ledger.adopt({"ward": grant, "lab": Grant(epsilon=1.0, delta=1e-6)})
    for context in ("a", "b"):
        ledger.reserve(
            Claim(
                holding="ward",
                context=context,
                purpose="train",
                run="run-1",
                coordinator="c0",
                fingerprint="f0",
                events=(EVENT,),
            )
        )
    ledger.commit("a")
    ledger.adopt({"ward": grant})
    ledger.close()
    approvals = Approvals(folder / "approvals")
    first, second = make_plan(dp=make_dp(epsilon=3.3)), make_plan(dp=make_dp(epsilon=4.0), run="run-2", rounds=6)
    approvals.submit(first, coordinator="c0", approval="auto")
    approvals.submit(second, coordinator="c0", approval="manual")
    approvals.reject(make_plan(run="run-3"), coordinator="c0", rule="data.minimum_cohort", reason="too few")
    return folder


def waiting(site: Path) -> str:
    """Hash of the plan that waits."""
    return next(d.plan_sha256 for d in Approvals(site / "approvals").all() if d.state == "pending")


def test_show_says_where_each_holding_stands(call: Call, site: Path) -> None:
    """Spend and ceiling by holding, purpose and quarter, with delta, accountant and relation; what is closed is said."""
    ran = call("site", "ledger", "show", "--dir", str(site))

    assert (ran.code, ran.err) == (0, "")
    assert "ward: epsilon 8.668 of 20" in ran.out
    assert "at delta 1e-05, by pld; 2 queries" in ran.out
    assert "purpose train: epsilon 8.668 of 15" in ran.out
    assert "quarter 2200-Q1: epsilon 8.668 of 10" in ran.out
    assert "opened today without a sum: 1 of 4" in ran.out
    assert "lab: epsilon 0 of 0  CLOSED" in ran.out
    assert "one record present or blanked out" in ran.out
    assert "queries in doubt, which count as spent: 1" in ran.out


def test_show_as_json_is_one_object_without_the_entries(call: Call, site: Path) -> None:
    """For programs; the numbers are those of the words."""
    tree = json.loads(call("site", "ledger", "show", "--dir", str(site), "--json").out)

    ward = tree["holdings"][0]
    assert (ward["name"], ward["ceiling"], round(ward["epsilon"], 3)) == ("ward", 20.0, 8.668)
    assert "entries" not in tree


def test_verify_says_whether_anybody_vouches(call: Call, site: Path) -> None:
    """Without an anchor it says that a backup would look the same; with one, up to where others have seen it."""
    alone = call("site", "ledger", "verify", "--dir", str(site))
    ledger = Ledger(site / "ledger.sqlite")
    ledger.anchor(ledger.head, witnesses=["site-b"])
    ledger.close()

    vouched = call("site", "ledger", "verify", "--dir", str(site))

    assert alone.code == vouched.code == 0
    assert "7 entries, each follows from those before it" in alone.out
    assert "an older copy that was put back would look the same" in alone.out
    assert "others have seen it up to entry 7" in vouched.out


def test_a_restored_backup_is_found_by_a_head_that_somebody_remembers(
    call: Call, site: Path, make_plan: Callable[..., Plan]
) -> None:
    """The copy verifies in itself; against the head it does not, with exit code 2."""
    backup = site / "backup"
    shutil.copy(site / "ledger.sqlite", backup)
    ledger = Ledger(site / "ledger.sqlite")
    ledger.commit("b")
    head = f"{ledger.head.number}:{ledger.head.digest}"
    ledger.close()
    assert call("site", "ledger", "verify", "--dir", str(site), "--head", head).code == 0

    backup.replace(site / "ledger.sqlite")

    assert call("site", "ledger", "verify", "--dir", str(site)).code == 0
    ran = call("site", "ledger", "verify", "--dir", str(site), "--head", head)
    assert (ran.code, ran.out) == (2, "")
    assert "refused by rule ledger_rolled_back" in ran.err


def test_a_ledger_that_was_edited_gives_no_numbers(call: Call, site: Path) -> None:
    """Each of the commands refuses with exit code 2."""
    db = sqlite3.connect(site / "ledger.sqlite")
    db.executescript("DROP TRIGGER entry_is_never_removed; DELETE FROM entry WHERE kind = 'reserved'")
    db.close()

    for command in ("show", "verify", "export"):
        ran = call("site", "ledger", command, "--dir", str(site))
        assert (ran.code, ran.out) == (2, "")
        assert "ledger_damaged" in ran.err


def test_export_writes_json_and_csv(call: Call, site: Path) -> None:
    """Both hold all entries; a file is written whole."""
    tree = json.loads(call("site", "ledger", "export", "--dir", str(site)).out)
    rows = list(
        csv.DictReader(io.StringIO(call("site", "ledger", "export", "--dir", str(site), "--format", "csv").out))
    )
    out = site / "out.json"

    assert call("site", "ledger", "export", "--dir", str(site), "--out", str(out)).out == ""

    assert len(tree["entries"]) == 7
    assert [row["kind"] for row in rows] == [entry["kind"] for entry in tree["entries"]]
    assert json.loads(out.read_text()) == tree


@pytest.mark.parametrize("text", ["7", "7:ab", "x:" + "a" * 64, ":" + "a" * 64, "7:" + "g" * 64])
def test_a_head_that_is_none_is_the_users_error(call: Call, site: Path, text: str) -> None:
    """The form is named."""
    ran = call("site", "ledger", "verify", "--dir", str(site), "--head", text)

    assert ran.code == 2
    assert "expected NUMBER:DIGEST" in ran.err


def test_looking_makes_nothing(call: Call, tmp_path: Path) -> None:
    """A directory without a ledger is named, and stays as it was."""
    for command in ("show", "verify", "export"):
        ran = call("site", "ledger", command, "--dir", str(tmp_path))
        assert ran.code == 2
        assert "found no ledger.sqlite in it, expected the directory of a site; name it with --dir" in ran.err
    assert call("site", "plans", "--dir", str(tmp_path)).out == "no plan waits\n"
    assert call("site", "plans", "--dir", str(tmp_path / "none")).code == 2
    assert list(tmp_path.iterdir()) == []


def test_check_says_what_a_policy_allows(call: Call, tmp_path: Path) -> None:
    """In words; an empty one allows nothing, a dangerous switch is a warning."""
    file = tmp_path / "policy.yaml"
    file.write_text("")
    closed = call("site", "policy", "check", str(file))
    file.write_text(
        "holdings: {ward: {epsilon: 8, delta: 1e-6, purposes: {train: 6}, per_quarter: 3}}\n"
        "purposes: {train: {approval: auto}}\n"
        "privacy: {allow_secure_sum_off: true, allow_without_privacy: true}\n"
    )

    open_ = call("site", "policy", "check", str(file))

    assert closed.code == open_.code == 0
    assert "purposes: none, so every plan is refused" in closed.out
    assert "holdings: none, so nothing can be spent" in closed.out
    assert "WARNING" not in closed.out
    assert "purposes: train (auto)" in open_.out
    assert "holding ward: epsilon 8 for life at delta 1e-06, 6 for train, 3 a quarter" in open_.out
    assert "UNMASKED" in open_.out
    assert "WITHOUT differential privacy" in open_.out
    tree = json.loads(call("site", "policy", "check", str(file), "--json").out)
    assert tree["budgets"]["ward"]["epsilon"] == 8.0
    assert tree["policy"]["data"]["minimum_cohort"] == 3


def test_a_mistake_in_a_policy_is_named_with_exit_code_2(call: Call, tmp_path: Path) -> None:
    """File, key, what was found, what was expected, the closest word."""
    file = tmp_path / "policy.yaml"
    file.write_text("privacy: {max_epsilom: 3}")

    ran = call("site", "policy", "check", str(file))

    assert (ran.code, ran.out) == (2, "")
    assert ran.err == (
        "error: policy.yaml: privacy.max_epsilom: found an unknown key, expected a key of the schema; "
        "did you mean 'privacy.max_epsilon'?\n"
    )


def test_plans_lists_what_waits_with_what_is_new(call: Call, site: Path) -> None:
    """Against the last approved job, in words; the decided ones with --all."""
    ran = call("site", "plans", "--dir", str(site))

    assert ran.code == 0
    assert f"{waiting(site)[:12]} WAITS for a person" in ran.out
    assert "  * epsilon +0.7 (3.3 -> 4)" in ran.out
    assert "  * rounds 3 -> 6" in ran.out
    assert ran.out.count("coordinator") == 1
    everything = call("site", "plans", "--all", "--dir", str(site)).out
    assert "ACCEPTED by policy" in everything
    assert "REFUSED by policy, rule data.minimum_cohort" in everything
    assert len(json.loads(call("site", "plans", "--all", "--dir", str(site), "--json").out)["plans"]) == 3


def test_a_person_approves_and_takes_it_back(call: Call, site: Path) -> None:
    """By the beginning of the hash; what was decided is shown, with the reason."""
    plan = waiting(site)

    approved = call("site", "approve", plan[:10], "--dir", str(site))
    refused = call("site", "refuse", plan, "--reason", "not before the board has met", "--dir", str(site))

    assert (approved.code, refused.code) == (0, 0)
    assert "ACCEPTED by person" in approved.out
    assert "REFUSED by person" in refused.out
    assert "because not before the board has met" in refused.out
    decision = Approvals(site / "approvals").get(plan)
    assert decision is not None
    assert (decision.state, decision.by) == ("refused", "person")
    assert call("site", "plans", "--dir", str(site)).out == "no plan waits\n"


def test_a_plan_that_breaks_a_rule_cannot_be_approved(call: Call, site: Path) -> None:
    """Exit code 2, the rule and what to do."""
    plan = next(d.plan_sha256 for d in Approvals(site / "approvals").all() if d.state == "refused")

    ran = call("site", "approve", plan, "--dir", str(site))

    assert (ran.code, ran.out) == (2, "")
    assert "rule_stands: the plan breaks data.minimum_cohort: too few; change the policy" in ran.err


def test_an_unknown_plan_is_the_users_error(call: Call, site: Path) -> None:
    """The known ones are named."""
    ran = call("site", "approve", "ffff", "--dir", str(site))

    assert ran.code == 2
    assert "found 0 plans whose hash begins with 'ffff', expected exactly one; there are " in ran.err


@pytest.mark.parametrize(
    "command",
    [(), ("ledger",), ("policy",), ("ledger", "show"), ("policy", "check"), ("plans",), ("approve",), ("refuse",)],
)
def test_every_command_explains_itself(call: Call, command: tuple[str, ...]) -> None:
    """Help ends with 0 and says what the command is for."""
    ran = call("site", *command, "--help")

    assert ran.code == 0
    assert "Usage" in ran.out
