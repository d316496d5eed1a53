"""The round as a state machine."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partsong.server import rounds
from partsong.server.rounds import MASKED, PLAIN, EventRefused, Loss, Phase, Round


def five(*phases: Phase) -> Round:
    """A round of five sites."""
    return Round(number=1, attempt=1, cohort=("a", "b", "c", "d", "e"), phases=phases or PLAIN)


def after(state: Round, sites: str, *, needed: int = 3) -> Round:
    """The round after `sites` have answered the present phase and it was closed."""
    phase = state.phase
    for site in sites:
        state = rounds.answered(state, site, phase=phase)
    return rounds.close(state, needed=needed)


def test_a_round_with_one_late_dropout_is_summed_over_the_other_four() -> None:
    """A site that was ready and then vanished is not in the sum, and the round finishes."""
    state = after(after(five(), "abcde"), "ecba")

    assert state.phase is Phase.SUMMED
    assert state.roster == ("a", "b", "c", "d", "e")
    assert state.survivors == ("a", "b", "c", "e")
    assert state.lost == {"d": Loss.SILENT}


def test_a_masked_round_asks_the_survivors_twice_more() -> None:
    """Who drops out after its report stays in the sum and is not asked again."""
    state = after(after(five(*MASKED), "abcde"), "abcd")

    assert (state.phase, state.asked) == (Phase.CONFIRM, ("a", "b", "c", "d"))
    state = after(state, "abd")
    assert (state.phase, state.asked) == (Phase.UNMASK, ("a", "b", "d"))
    state = after(state, "abd")
    assert state.phase is Phase.SUMMED
    assert state.survivors == ("a", "b", "c", "d")
    assert state.lost == {"e": Loss.SILENT, "c": Loss.SILENT}


def test_a_site_that_holds_no_shares_is_not_waited_for() -> None:
    """A phase may ask fewer; the next one asks everybody again who is in it."""
    state = rounds.ask_only(after(after(five(*MASKED), "abcde"), "abcde"), ["b", "d"])

    assert (state.asked, state.waiting) == (("b", "d"), ("b", "d"))
    state = after(state, "bd", needed=2)
    assert (state.lost, state.asked) == ({}, ("a", "b", "c", "d", "e"))


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        (["ab"], "round 1: 2 sites ready, 3 needed; no sum was opened"),
        (["abc", "ab"], "round 1: 2 sites reported, 3 needed; no sum was opened"),
        (["abc", "abc", "a"], "round 1: 1 sites confirmed the survivors, 3 needed; no sum was opened"),
        (["abc", "abc", "abc", ""], "round 1: 0 sites gave their shares, 3 needed; no sum was opened"),
    ],
)
def test_too_few_answers_end_a_round_by_name_in_every_phase(answers: list[str], reason: str) -> None:
    """Nothing goes on below what a phase needs."""
    state = five(*MASKED)
    for sites in answers:
        state = after(state, sites)

    assert state.phase is Phase.ABORTED
    assert state.reason == reason
    assert state.waiting == ()


@pytest.mark.parametrize("site", ["a", "z"])
def test_a_second_or_unknown_answer_is_refused_and_changes_nothing(site: str) -> None:
    """A replayed or foreign message cannot be counted."""
    state = rounds.answered(five(), "a", phase=Phase.READY)

    with pytest.raises(EventRefused, match=f"site '{site}'"):
        rounds.answered(state, site, phase=Phase.READY)

    assert state.roster == ("a",)


def test_a_report_before_the_roster_is_refused() -> None:
    """Phases cannot be skipped."""
    with pytest.raises(EventRefused, match="phase ready, not report"):
        rounds.answered(five(), "a", phase=Phase.REPORT)


def test_a_site_that_was_not_ready_cannot_report() -> None:
    """Only sites of the roster are in the sum."""
    state = after(five(), "abcd")

    with pytest.raises(EventRefused, match="site 'e'"):
        rounds.answered(state, "e", phase=Phase.REPORT)


def test_an_ended_round_takes_nothing_more() -> None:
    """Neither an answer, nor an end, nor a loss; a sum that turns out to be none can still be given up."""
    summed = after(after(five(), "abc"), "abc")

    for event in (
        lambda: rounds.answered(summed, "a", phase=Phase.SUMMED),
        lambda: rounds.lost(summed, "a", Loss.FAILED),
        lambda: rounds.close(summed, needed=1),
        lambda: rounds.abort(rounds.abort(summed, why="x"), why="y"),
    ):
        with pytest.raises(EventRefused, match="round 1"):
            event()
    assert rounds.abort(summed, why="no sum").reason == "round 1: no sum; no sum was opened"


EVENTS = st.lists(
    st.tuples(st.sampled_from(["answer", "early", "lost", "close"]), st.sampled_from("abcdez")), max_size=60
)


def played(events: list[tuple[str, str]], *, needed: int) -> Round:
    """A masked round after these events."""
    state = five(*MASKED)
    for kind, site in events:
        try:
            if kind == "answer":
                state = rounds.answered(state, site, phase=state.phase)
            elif kind == "early":
                state = rounds.answered(state, site, phase=Phase.UNMASK)
            elif kind == "lost":
                state = rounds.lost(state, site, Loss.FAILED)
            else:
                state = rounds.close(state, needed=needed)
        except EventRefused:
            continue
    return state


@given(EVENTS, st.integers(1, 5))
def test_no_order_of_events_sums_fewer_sites_than_needed(events: list[tuple[str, str]], needed: int) -> None:
    """Whatever arrives, a summed round has enough answers in each phase, each once, each of a site that was asked."""
    state = played(events, needed=needed)

    answers = [state.answers.get(phase, ()) for phase in MASKED]
    ready, reported, confirmed, unmasked = map(set, answers)
    assert [len(sites) for sites in answers] == [len(set(sites)) for sites in answers]
    assert unmasked | confirmed <= reported <= ready <= set(state.cohort)
    if state.phase is Phase.SUMMED:
        assert min(map(len, answers)) >= needed


@given(EVENTS, st.sets(st.sampled_from("abcde")))
def test_a_round_waits_for_the_sites_that_it_lists(events: list[tuple[str, str]], excused: set[str]) -> None:
    """Asking about one site says what the list of all says, in any phase, of strangers too."""
    state = played(events, needed=1)
    if not state.done:
        state = rounds.ask_only(state, set(state.asked) - excused)

    found = [site for site in "abcdez" if state.waits_for(site)]

    assert found == list(state.waiting)


def test_the_property_of_floors_would_notice_a_missing_one() -> None:
    """With nothing needed a sum of nobody is reached, so the property can fail."""
    assert played([("close", "a")] * 4, needed=0).phase is Phase.SUMMED
