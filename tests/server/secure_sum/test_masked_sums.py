"""The secure sum of a run, at the coordinator: keys, rounds, recovery and the check at the end."""

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from wiring import Killed, Wired

from partsong.common import wire
from partsong.common.codec import pack
from partsong.common.errors import DataError
from partsong.common.secure_sum.messages import Pairings
from partsong.server.coordinator import RunNotStarted
from partsong.server.exchange import Parcel
from partsong.server.rounds import Loss
from partsong.server.secure_sum.masked_sums import MOST_SETUPS

Make = Callable[..., Wired]
STEPS = ("begin", "pair", "reveal", "finish")


def step_of(parcel: Parcel) -> str:
    """The step of a message of set-up."""
    return wire.decode(parcel.header, wire.Keys).step


def silent(site: str, step: str, *, times: int = 100) -> Callable[[str, str, Parcel], Parcel | None]:
    """A site that does not hear a step of set-up, the first few times."""
    left = [times]

    def before(name: str, phase: str, parcel: Parcel) -> Parcel | None:
        if (name, phase) == (site, "keys") and step_of(parcel) == step and left[0]:
            left[0] -= 1
            return None
        return parcel

    return before


def begins(made: Wired) -> int:
    """How many set-ups were begun at site `a`."""
    return [phase for phase, site in made.lines.asked if site == "a"].count("keys")


def test_a_run_gives_exact_sums_and_every_site_finds_them_right(wired: Make) -> None:
    """Three rounds, bit by bit what the sites sealed; the control is another sum."""
    made = wired()

    made.play(to=3)

    assert [made.is_exact(n) for n in (1, 2, 3)] == [True] * 3
    assert made.checked == ("a", "b", "c", "d", "e")
    made.outcomes[3] = made.outcomes[2]
    assert not made.is_exact(3)


@pytest.mark.parametrize("step", STEPS)
def test_a_site_that_is_silent_in_set_up_is_left_out_and_the_run_goes_on(wired: Make, step: str) -> None:
    """Whatever the step: by itself, or by the next try without it. It is in no sum."""
    made = wired()
    made.lines.before = silent("b", step)

    made.propose()
    outcome = made.round(1)

    assert outcome.state.survivors == tuple("acde")
    assert made.is_exact(1)
    assert begins(made) == {"begin": 4, "pair": 2 + 4, "reveal": 3 + 4, "finish": 4}[step]


@pytest.mark.parametrize("step", STEPS)
def test_a_site_that_is_restarted_in_set_up_is_in_the_next_try(wired: Make, step: str) -> None:
    """It has forgotten the first try, is asked for the plan again by nobody, and says `state`; then it has keys."""
    made = wired()
    restarted: list[str] = []

    def before(site: str, phase: str, parcel: Parcel) -> Parcel:
        if (site, phase) == ("b", "keys") and step_of(parcel) == step and not restarted:
            restarted.append(site)
            made.restart("b").handle(Parcel(header=wire.encode(wire.Propose(plan=made.plan))))
        return parcel

    made.lines.before = before

    made.propose()

    assert restarted == ["b"]
    assert made.round(1).state.survivors == tuple("abcde")
    assert made.is_exact(1)


def test_a_site_that_forgets_every_try_is_left_out_after_the_second(wired: Make) -> None:
    """Otherwise it alone could keep the others from a run."""
    made = wired()
    no = Parcel(header=wire.encode(wire.Refuse(site="b", code="state")))
    made.lines.after = lambda site, phase, answer: no if (site, phase) == ("b", "keys") else answer
    made.lines.before = lambda site, phase, parcel: parcel

    made.propose()

    assert made.round(1).state.survivors == tuple("acde")
    assert made.is_exact(1)


@pytest.mark.parametrize("step", STEPS)
def test_silence_of_too_many_is_waited_out(wired: Make, step: str) -> None:
    """Two of five miss a step once: without them there is no sum, so all are asked again."""
    made = wired()
    first, second = silent("b", step, times=1), silent("c", step, times=1)

    def both(site: str, phase: str, parcel: Parcel) -> Parcel | None:
        return None if first(site, phase, parcel) is None else second(site, phase, parcel)

    made.lines.before = both

    made.propose()

    assert made.round(1).state.survivors == tuple("abcde")
    assert made.is_exact(1)


def test_set_up_is_given_up_by_name_after_some_tries(wired: Make) -> None:
    """Two sites that never answer a step end the run before a record is read."""
    made = wired()
    made.lines.before = lambda site, phase, parcel: None if phase == "keys" and site in "bc" else parcel

    with pytest.raises(RunNotStarted, match=f"without keys after {MOST_SETUPS} tries.*3 sites answered, 4 needed"):
        made.propose()

    assert {phase for phase, _ in made.lines.asked} == {"propose", "keys"}


def test_a_site_that_sends_no_pairings_is_the_one_that_is_left_out(wired: Make) -> None:
    """An empty message is right from the last site alone; from another it cost all tries."""
    made = wired()

    def empty(site: str, phase: str, answer: Parcel | Loss) -> Parcel | Loss:
        if (site, phase) == ("b", "keys") and isinstance(answer, Parcel):
            step = wire.decode(answer.header, wire.Keyed).step
            return Parcel(header=answer.header, note=pack(Pairings(pairings=()))) if step == "pair" else answer
        return answer

    made.lines.after = empty
    made.propose()

    assert made.round(1).state.survivors == tuple("acde")


def test_a_coordinator_that_died_after_a_sum_finds_it_again(wired: Make) -> None:
    """Killed between the result and the checkpoint: the round is not asked again, and the run ends as it would have."""
    made = wired()
    made.propose()
    made.round(1)
    lost = made.coordinator.run(made.query(2))

    made.resume()

    assert made.done == 2
    assert lost.opened is not None
    assert made.outcomes[2].opened is not None
    assert made.outcomes[2].opened.mean_P.tobytes() == lost.opened.mean_P.tobytes()
    assert made.outcomes[2].state.survivors == lost.state.survivors
    made.play(to=3)
    assert made.is_exact(3)
    assert made.checked == tuple("abcde")


def test_nothing_is_recovered_that_was_used(wired: Make) -> None:
    """The control: after a checkpoint there is nothing left to take."""
    made = wired()
    made.play(to=2)
    made.start()

    assert made.sums.recovered(after=2) == []
    assert [outcome.state.number for outcome in made.sums.recovered(after=0)] == [1, 2]


def test_a_recovered_round_names_who_dropped_out(wired: Make) -> None:
    """Who was in the roster and not in the sum stands in the result."""
    made = wired()
    made.propose()
    made.lines.before = lambda site, phase, parcel: None if (site, phase) == ("d", "roster") else parcel
    made.coordinator.run(made.query(1))

    made.start()
    (outcome,) = made.sums.recovered(after=0)

    assert outcome.state.roster == tuple("abcde")
    assert outcome.state.survivors == tuple("abce")
    assert outcome.state.lost == {"d": Loss.SILENT}


def killed_before_messages(made: Wired, places: list[int]) -> None:
    """Run four rounds; the coordinator dies before each of these messages and is started again."""
    made.lines.kill_at, is_new = places.pop(0), True
    while not made.checked:
        try:
            if not is_new:
                made.resume()
            made.play(to=4)
        except Killed:
            made.lines.kill_at, is_new = max(places.pop(0), len(made.lines.asked)) if places else None, False
    assert all(outcome.opened is None or made.is_exact(n) for n, outcome in made.outcomes.items())
    assert made.outcomes[4].state.survivors == tuple("abcde")
    assert made.checked == tuple("abcde")


def killed_at_writes(made: Wired, deaths: list[tuple[str, int]], *, done: bool) -> None:
    """Run rounds in which sites die around a write of their vaults and start again; then two without."""
    made.propose()
    for name, after in deaths:
        made.vaults[name].dies_at = (made.vaults[name].writes + after, done)
    for number in (1, 2, 3):
        outcome = made.round(number)
        assert made.is_exact(number) if outcome.opened else outcome.state.reason
    for vault in made.vaults.values():
        vault.dies_at = None
    made.round(4)
    assert made.round(5).state.survivors == tuple("abcde")
    assert made.is_exact(5)
    assert made.close() == tuple("abcde")


LOOK = settings(deadline=None, suppress_health_check=list(HealthCheck))
PLACES = st.lists(st.integers(0, 140), min_size=2, max_size=2).map(sorted)
DEATHS = st.lists(st.tuples(st.sampled_from("abcde"), st.integers(1, 30)), min_size=2, max_size=2)


def test_every_message_of_a_run_is_a_place_to_die(wired: Make) -> None:
    """The coordinator is killed before two messages: every sum is exact, and all sites find the run right."""
    settings(LOOK, max_examples=6)(given(places=PLACES)(lambda places: killed_before_messages(wired(), places)))()


def test_every_write_of_a_site_is_a_place_to_die(wired: Make) -> None:
    """Two sites are killed around a write of their vaults: exact sums or a named abort, and they come back."""
    look = settings(LOOK, max_examples=4)
    look(given(deaths=DEATHS, done=st.booleans())(lambda deaths, done: killed_at_writes(wired(), deaths, done=done)))()


@pytest.mark.nightly
def test_many_places_to_die(wired: Make) -> None:
    """The two tests above, at many more places."""
    look = settings(LOOK, max_examples=100)
    look(given(places=PLACES)(lambda places: killed_before_messages(wired(), places)))()
    look(given(deaths=DEATHS, done=st.booleans())(lambda deaths, done: killed_at_writes(wired(), deaths, done=done)))()


def test_a_damaged_result_stops_the_run_by_name_before_anything_is_sent(wired: Make) -> None:
    """Changed, exchanged for another, or gone: at the start if it is the last, else where it would be sent."""
    made = wired()
    made.play(to=2)
    files = sorted((made.folder / "coordinator" / "results").iterdir())
    good = [file.read_bytes() for file in files]
    asked = len(made.lines.asked)
    for bad in (good[1][:-1] + b"\x00\x00", good[1][:50], good[0]):
        files[1].write_bytes(bad)
        with pytest.raises(DataError, match=r"results/000002\.result: found a damaged file"):
            made.start()
    files[1].unlink()
    with pytest.raises(DataError, match=r"results/000002\.result"):
        made.start()
    files[1].write_bytes(good[1])
    files[0].write_bytes(good[1])
    made.start()

    with pytest.raises(DataError, match=r"results/000001\.result"):
        made.sums.missed("f")
    assert len(made.lines.asked) == asked


def test_only_members_of_the_charter_are_known(wired: Make) -> None:
    """By name."""
    sums = wired().sums

    assert [sums.lists(name) for name in ("a", "e", "f", "")] == [True, True, False, False]
