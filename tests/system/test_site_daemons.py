"""Whole masked runs of five site daemons over a transport in memory, with daemons killed between their messages."""

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from partsong.common import wire
from partsong.common.errors import Refused
from partsong.server.coordinator import RunNotStarted

MESSAGES = 14
"""Of one site in a canary of two rounds: proposal, four steps of set-up, two rounds of four phases, the last result."""


def test_a_canary_runs_to_its_end_and_every_site_finds_it_right(fleet: Any) -> None:
    """Two rounds, each exactly the sum of what five sites had to send; nothing stands in a ledger but its opening."""
    run = fleet.canary()

    checked = run.play()

    assert checked == ("a", "b", "c", "d", "e")
    assert [run.survivors(n) for n in (1, 2)] == [checked] * 2
    assert run.is_exact(1)
    assert run.is_exact(2)
    assert len([phase for phase, site in run.asked if site == "c"]) == MESSAGES
    assert not run.errors
    assert all(not site.ledger.outstanding() for site in fleet.sites.values())


def test_a_sum_that_lacks_a_site_is_noticed(fleet: Any) -> None:
    """The control: with another round's numbers the check fails."""
    run = fleet.canary()
    run.play()

    run.outcomes[1], run.outcomes[2] = run.outcomes[2], run.outcomes[1]

    assert not run.is_exact(1)


OFTEN = (0, 1, 3, 5, 6, 7, 8, 13)
"""One message of each kind, and the last."""
KILLS = [number if number in OFTEN else pytest.param(number, marks=pytest.mark.nightly) for number in range(MESSAGES)]


@pytest.mark.parametrize("kill", KILLS)
def test_a_daemon_that_is_killed_between_any_two_messages_goes_on(fleet: Any, kill: int) -> None:
    """The rounds open the survivors' sum; the killed site is missing at most where its update died with it."""
    run = fleet.canary()
    seen = 0

    def before(_number: int, _phase: str, site: str) -> None:
        nonlocal seen
        if site == "c":
            if seen == kill:
                fleet.sites["c"].start()
            seen += 1

    run.before = before

    checked = run.play()

    others = {"a", "b", "d", "e"}
    for number in (1, 2):
        assert run.is_exact(number)
        assert set(run.survivors(number)) >= others
    missing = [number for number in (1, 2) if "c" not in run.survivors(number)]
    assert missing == {6: [1], 10: [2]}.get(kill, [])
    assert set(checked) == others | {"c"}


@pytest.mark.parametrize("kept", [True, False])
def test_a_report_that_no_process_lived_to_send_goes_out_to_the_byte(fleet: Any, *, kept: bool) -> None:
    """Killed after masking: the vault has the report. Control: without it nothing is sealed again."""
    run, site = fleet.canary(), fleet.sites["c"]
    old, answers = site.daemon, []
    answer = old.answer

    def dies(header: bytes, **rest: bytes) -> Any:
        answers.append(answer(header, **rest))
        if wire.kind_of(header) != "roster":
            return answers.pop()
        for record in site.home.vault.glob("*report*"):
            if not kept:
                record.unlink()
        site.start()
        answers.append(site.daemon.answer(header, **rest))
        return answers[1]

    old.answer = dies

    checked = run.play()

    assert (answers[0] == answers[1]) == kept
    assert ("c" in run.survivors(1)) == kept
    assert run.is_exact(1)
    assert run.is_exact(2)
    assert checked == ("a", "b", "c", "d", "e")


@pytest.mark.parametrize("phase", ["open", "confirm", "unmask", "result"])
def test_all_daemons_may_be_killed_at_once(fleet: Any, phase: str) -> None:
    """Before any phase in which nothing waits in memory alone."""
    run = fleet.canary()
    killed: list[str] = []

    def before(_number: int, now: str, _site: str) -> None:
        if now == phase and not killed:
            killed.extend(fleet.sites)
            for site in fleet.sites.values():
                site.start()

    run.before = before

    checked = run.play()

    assert len(killed) == len(checked) == 5
    assert [len(run.survivors(n)) for n in (1, 2)] == [5, 5]
    assert run.is_exact(1)
    assert run.is_exact(2)


def test_two_plans_take_turns_and_keep_their_keys_apart(fleet: Any) -> None:
    """Round by round, with all daemons killed in between."""
    first, second = fleet.canary(run="one"), fleet.canary(run="two", size=70)
    first.propose()
    second.propose()

    for number in (1, 2):
        first.round(number)
        for site in fleet.sites.values():
            site.start()
        second.round(number)
    checked = first.close(), second.close()

    assert [len(names) for names in checked] == [5, 5]
    assert all(run.is_exact(number) for run in (first, second) for number in (1, 2))


def test_a_plan_whose_phases_lie_within_those_of_another_is_answered(fleet: Any) -> None:
    """The whole second run happens between two messages of the first one's round."""
    first, second = fleet.canary(run="one"), fleet.canary(run="two")
    first.propose()
    checked: list[Any] = []

    def before(_number: int, phase: str, site: str) -> None:
        if (phase, site) == ("confirm", "c") and not checked:
            checked.append(())
            checked[0] = second.play()

    first.before = before

    first.round(1)

    assert checked == [("a", "b", "c", "d", "e")]
    assert first.is_exact(1)
    assert len(first.survivors(1)) == 5


def test_a_restart_of_one_plan_leaves_the_keys_of_the_other_alone(fleet: Any) -> None:
    """The records of the vault bear the names of their plans."""
    first, second = fleet.canary(run="one"), fleet.canary(run="two")
    first.propose()
    before = {file.name for file in fleet.sites["a"].home.vault.iterdir()}

    second.propose()

    after = {file.name for file in fleet.sites["a"].home.vault.iterdir()}
    assert before < after
    assert all(name.startswith((first.plan.sha256, second.plan.sha256)) for name in after - {".format"})


def test_a_daemon_does_not_go_back_to_an_older_charter(fleet: Any) -> None:
    """Neither to another one of the same version."""
    site = fleet.sites["a"]
    site.charter = dataclasses.replace(fleet.charter, minimum_honest=2)
    with pytest.raises(Refused, match="charter_replaced"):
        site.start()
    site.charter = dataclasses.replace(fleet.charter, version=2, previous=fleet.charter.hash.hex())
    site.start()
    site.charter = fleet.charter

    with pytest.raises(Refused, match="charter_rolled_back"):
        site.start()


def test_old_canaries_make_room_and_leave_nothing_in_the_vault(fleet: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """They need nobody's approval, so a coordinator could fill the disk with them; what is gone stays gone."""
    monkeypatch.setattr("partsong.client.daemon.plan_desk.MOST_CANARIES", 1)
    first, second = fleet.canary(run="one", rounds=1), fleet.canary(run="two", rounds=1)
    first.play()
    fleet.now += 1

    checked = second.play()

    home = fleet.sites["a"].home
    assert len(checked) == 5
    assert {path.name for path in (home.plans / first.plan.sha256).iterdir()} == {"life.json"}
    assert not [file for file in home.vault.iterdir() if file.name.startswith(first.plan.sha256)]
    assert [file for file in home.vault.iterdir() if file.name.startswith(second.plan.sha256)]
    with pytest.raises(RunNotStarted, match="a: state"):
        fleet.canary(run="one", rounds=1).propose()


_WITHOUT_TORCH = """
import importlib.util, sys
from pathlib import Path
spec = importlib.util.spec_from_file_location("daemon_fleet", sys.argv[1])
module = importlib.util.module_from_spec(spec)
sys.modules["daemon_fleet"] = module
spec.loader.exec_module(module)
fleet = module.Fleet(Path(sys.argv[2]))
run = fleet.canary()
checked = run.play()
fleet.close()
heavy = [name for name in ("torch", "transformers", "peft", "opacus") if name in sys.modules]
print(len(checked), run.is_exact(2), heavy)
"""


def test_a_daemon_that_trains_nothing_loads_no_torch(tmp_path: Path) -> None:
    """A whole canary in a process of its own."""
    fleet_file = Path(__file__).parents[1] / "daemon_fleet.py"

    done = subprocess.run(
        [sys.executable, "-P", "-c", _WITHOUT_TORCH, str(fleet_file), str(tmp_path)],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip

    assert (done.returncode, done.stdout) == (0, "5 True []\n"), done.stderr
