"""Real daemons over loopback TLS that are killed with SIGKILL, stopped, cut off and started again while a run goes on.

The vectors are a canary's, so that anybody can compute what the adapter has to be from the names of those who
contributed to each round.
"""

import importlib.util
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).parents[1]
SITES = 6
KINDS = ("open", "roster", "confirm", "unmask")
SITE_PLACES, COORDINATOR_PLACES = ("before", "answered", "kept", "sending", "sent"), ("before", "first", "after")
MOST_GROWTH_MB, MOST_DESCRIPTORS, MOST_NEW_DESCRIPTORS = 24, 200, 12
_spec = importlib.util.spec_from_file_location("networks", TESTS / "client" / "networks.py")
assert _spec is not None
assert _spec.loader is not None
networks: Any = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(networks)
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="daemons run on Linux")
Play = Callable[..., dict[str, Any]]


class Theatre:
    """The driver, with a consortium of its own."""

    def __init__(self, sites: int) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-W", "ignore", str(TESTS / "outage_driver.py"), str(sites)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def play(self, **play: Any) -> dict[str, Any]:
        """Play one run; gives what is found afterwards."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(play) + "\n")
        self.process.stdin.flush()
        facts: dict[str, Any] = json.loads(self.process.stdout.readline())
        assert not facts["errors"]
        return facts

    def end(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.stdout.close()
        assert self.process.wait(60) == 0


@pytest.fixture(scope="module")
def theatre() -> Iterator[Theatre]:
    """Six sites and a coordinator."""
    made = Theatre(SITES)
    yield made
    made.end()


def trap(who: str, at: str, number: int = 0, **more: Any) -> dict[str, Any]:
    return {"who": who, "at": at, "round": number, **more}


def require_right(found: dict[str, Any], *, rounds: int, traps: int = 0) -> None:
    """What holds after whatever happened: every sum is of its survivors, and nothing was said in two ways."""
    assert (found["state"], found["reason"]) == ("finished", "")
    assert [entry["round"] for entry in found["rounds"]] == list(range(1, rounds + 1))
    assert all(bool(entry["sites"]) != entry["reason"].startswith(f"round {n}: ") for n, entry in numbered(found))
    assert (found["right"], found["right without a site"]) == (True, False)
    assert set(found["ledgers"].values()) == {""}
    assert set(map(tuple, found["twice"].values())) == {()}
    assert len(found["traps"]) == traps


def numbered(found: dict[str, Any]) -> list[tuple[int, dict[str, Any]]]:
    return [(entry["round"], entry) for entry in found["rounds"]]


def without(found: dict[str, Any], site: str) -> list[int]:
    """Rounds whose sum lacks a site."""
    return [number for number, entry in numbered(found) if site not in entry["sites"]]


def test_sites_and_coordinator_are_killed_and_the_run_goes_on_to_its_end(theatre: Theatre) -> None:
    """A site in each phase, the coordinator in set-up, a round and publication; whoever had sealed is in the sum."""
    traps = [
        trap("s01", "sent begin"),
        trap("s01", "answered open", 1),
        trap("s01", "before roster", 2),
        trap("s01", "kept roster", 3),
        trap("s01", "answered confirm", 4),
        trap("s01", "sending unmask", 5),
        trap("coordinator", "first roster", 3),
        trap("coordinator", "after unmask", 5),
        trap("coordinator", "before publish"),
    ]

    found = theatre.play(rounds=6, timeout_s=40, traps=traps)

    require_right(found, rounds=6, traps=len(traps))
    assert 2 in without(found, "s01")
    assert not {1, 4} & set(without(found, "s01"))
    assert found["masked"] >= 6 * SITES - 3


def test_a_round_that_too_many_leave_aborts_by_name_and_the_next_has_everybody(theatre: Theatre) -> None:
    """Four of six are killed before they have sealed; they say so when they are back, and nobody waits for them."""
    traps = [trap(f"s0{number}", "before roster", 2) for number in (2, 3, 4, 5)]

    found = theatre.play(rounds=3, timeout_s=40, traps=traps)

    require_right(found, rounds=3, traps=4)
    assert [len(entry["sites"]) for entry in found["rounds"]] == [6, 0, 6]
    assert found["rounds"][1]["reason"] == "round 2: 2 sites reported, 4 needed; no sum was opened"


STOPPED_IN = ("roster", *(pytest.param(kind, marks=pytest.mark.nightly) for kind in ("open", "confirm", "unmask")))


@pytest.mark.parametrize("kind", STOPPED_IN)
def test_a_stopped_site_is_not_waited_for_and_comes_back(theatre: Theatre, kind: str) -> None:
    """SIGSTOP, and SIGCONT after the phase's deadline, which is the job's; then it takes part again."""
    stopped = trap("s02", f"before {kind}", 2, signal=int(signal.SIGSTOP), down_s=7.0)

    found = theatre.play(rounds=6, timeout_s=5, traps=[stopped])

    require_right(found, rounds=6, traps=1)
    assert found["rounds"][1]["lost"]["s02"] == "silent"
    assert ("s02" in found["rounds"][1]["sites"]) == (kind in ("confirm", "unmask"))
    assert "s02" in found["rounds"][-1]["sites"]
    (took_s,) = [took_s for name, number, took_s in found["phases"] if (name, number) == (kind, 2)]
    assert 4.9 < took_s < 10


def test_an_expected_site_that_does_not_come_fails_the_run_by_name(theatre: Theatre) -> None:
    """Nothing is asked of the others."""
    found = theatre.play(rounds=2, start_timeout_s=2.0, absent=["s03"], expected=["s01", "s03"])

    assert found["state"] == "failed"
    assert "missing: s03; no record was read" in found["reason"]
    assert found["phases"] == []


def require_flat(found: dict[str, Any]) -> None:
    """No process grows in the second half of its rounds: in the first it loads what an epsilon takes."""
    for seen in found["sizes"]:
        memory, descriptors = zip(*seen, strict=True)
        half = len(memory) // 2
        assert max(memory[half:]) - memory[half] <= MOST_GROWTH_MB
        assert max(descriptors) <= MOST_DESCRIPTORS
        assert max(descriptors[half:]) - descriptors[half] <= MOST_NEW_DESCRIPTORS


def test_six_sites_run_eight_rounds_while_somebody_is_killed_now_and_then(theatre: Theatre) -> None:
    """Coordinator or site, at any moment; each round has a sum or the reason why not."""
    found = theatre.play(rounds=8, timeout_s=20, kills=8, kill_every_s=1.0)

    require_right(found, rounds=8)
    assert found["killed"] == 8
    require_flat(found)


@pytest.mark.nightly
@pytest.mark.parametrize("who", ["s01", "coordinator"])
def test_a_process_is_killed_at_each_place_of_each_phase(theatre: Theatre, who: str) -> None:
    """One round for each; the site is missing only where its update was in memory alone."""
    places = SITE_PLACES if who == "s01" else COORDINATOR_PLACES
    all_at = [f"{place} {kind}" for kind in KINDS for place in places]
    traps = [trap(who, at, number) for number, at in enumerate(all_at, 1)]
    traps += [trap(who, "before result", len(all_at))]
    traps += [] if who == "s01" else [trap(who, "before publish"), trap(who, "after publish")]

    found = theatre.play(rounds=len(all_at), timeout_s=40, settle_s=8.0, traps=traps, limit_s=900)

    require_right(found, rounds=len(all_at), traps=len(traps))
    at_a_loss = ("kept open", "sending open", "sent open", "before roster")
    missing = [all_at[number - 1] for number in without(found, "s01")]
    assert missing == ([] if who == "coordinator" else [at for at in all_at if at in at_a_loss])


@pytest.mark.nightly
@pytest.mark.parametrize("kind", ["propose", "begin", "pair", "reveal", "finish"])
@pytest.mark.parametrize("who", ["s01", "coordinator"])
def test_a_process_is_killed_at_each_place_of_set_up(theatre: Theatre, who: str, kind: str) -> None:
    """Nobody is left out."""
    for place in SITE_PLACES if who == "s01" else COORDINATOR_PLACES:
        found = theatre.play(rounds=1, timeout_s=40, settle_s=8.0, traps=[trap(who, f"{place} {kind}")])

        require_right(found, rounds=1, traps=1)
        assert len(found["rounds"][0]["sites"]) == SITES


@pytest.mark.nightly
def test_sites_that_stay_away_in_unmask_leave_no_sum(theatre: Theatre) -> None:
    """Sealed, never opened: the round aborts by name at its deadline."""
    traps = [trap(f"s0{number}", "before unmask", 2, down_s=12.0) for number in (2, 3, 4, 5)]

    found = theatre.play(rounds=4, timeout_s=8, traps=traps)

    require_right(found, rounds=4, traps=4)
    assert "no secret was reconstructed; no sum was opened" in found["rounds"][1]["reason"]
    assert len(found["rounds"][-1]["sites"]) == SITES


class CutLink(networks.Relay):  # type: ignore[misc]
    """Breaks once, in the middle of an upload, and stays broken for a while."""

    def __init__(self, port: int, *, after_bytes: int, seconds: float) -> None:
        self._own, self._seconds, self._back_s = port, seconds, 0.0
        super().__init__(port)
        self.cut_after = after_bytes

    def _through(self, data: bytes) -> bytes | None:
        before = self.cuts
        passed: bytes | None = super()._through(data)
        if self.cuts > before:
            self._back_s = time.monotonic() + self._seconds
            self.lead_to(self._own)
        return passed

    def dial(self, near: socket.socket) -> socket.socket | None:
        """Connect to the other side, unless the link is broken."""
        return super().dial(near) if time.monotonic() >= self._back_s else None


@pytest.mark.nightly
def test_a_link_that_is_cut_for_90_s_in_the_middle_of_an_upload_costs_time_alone(theatre: Theatre) -> None:
    """The rest of the same bytes arrives, and the round has its site."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with CutLink(port, after_bytes=9 << 20, seconds=90.0) as link:
        found = theatre.play(
            rounds=2, size=4 << 20, timeout_s=300, settle_s=8.0, port=port, via={"s01": link.port}, limit_s=900
        )

    require_right(found, rounds=2)
    assert link.cuts == 1
    assert [len(entry["sites"]) for entry in found["rounds"]] == [SITES, SITES]
    assert found["masked"] == 2 * SITES
    assert found["rounds"][0]["seconds"] > 90


@pytest.mark.nightly
def test_a_coordinator_that_is_down_for_five_minutes_is_waited_for(theatre: Theatre) -> None:
    """Every site comes back before the run goes on."""
    away = trap("coordinator", "before roster", 2, down_s=300.0)

    found = theatre.play(rounds=3, timeout_s=60, settle_s=25.0, traps=[away], limit_s=900)

    require_right(found, rounds=3, traps=1)
    assert [len(entry["sites"]) for entry in found["rounds"]] == [SITES] * 3


@pytest.mark.nightly
def test_twenty_four_sites_run_fifty_rounds_while_somebody_is_killed_now_and_then() -> None:
    """As in the short one."""
    theatre = Theatre(24)
    try:
        found = theatre.play(rounds=50, timeout_s=60, kills=100, kill_every_s=1.5, settle_s=5.0, limit_s=3000)
    finally:
        theatre.end()

    require_right(found, rounds=50)
    assert found["killed"] > 50
    require_flat(found)
