"""The round as a state machine."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partsong.server import rounds
from partsong.server.rounds import EventRefused, Loss, Phase, Round


def five(minimum: int = 3) -> Round:
    """A round of five sites."""
    return Round(number=1, attempt=1, cohort=("a", "b", "c", "d", "e"), minimum=minimum)


def test_a_round_with_one_late_dropout_is_summed_over_the_other_four() -> None:
    """A site that was ready and then vanished is not in the sum, and the round finishes."""
    state = five()
    for site in "abcde":
        state = rounds.ready(state, site)
    state = rounds.close_opened(state)
    for site in "abce":
        state = rounds.reported(state, site)

    state = rounds.close_rostered(state)

    assert state.phase is Phase.SUMMED
    assert state.reported == ("a", "b", "c", "e")
    assert state.lost == {"d": Loss.SILENT}


def test_fewer_ready_sites_than_the_minimum_abort_before_anybody_reports() -> None:
    """The roster is never smaller than the floor."""
    state = rounds.ready(rounds.ready(five(), "a"), "b")

    state = rounds.close_opened(state)

    assert state.phase is Phase.ABORTED
    assert state.reason == "round 1: 2 sites ready, 3 needed; no sum was opened"
    assert state.roster == ()


@pytest.mark.parametrize("site", ["a", "z"])
def test_a_second_or_unknown_answer_is_refused_and_changes_nothing(site: str) -> None:
    """A replayed or foreign message cannot be counted."""
    state = rounds.ready(five(), "a")

    with pytest.raises(EventRefused, match=f"site '{site}'"):
        rounds.ready(state, site)

    assert state.ready == ("a",)


def test_a_report_before_the_roster_is_refused() -> None:
    """Phases cannot be skipped."""
    with pytest.raises(EventRefused, match="opened, not rostered"):
        rounds.reported(five(), "a")


def test_a_site_that_was_not_ready_cannot_report() -> None:
    """Only sites of the roster are in the sum."""
    state = five()
    for site in "abcd":
        state = rounds.ready(state, site)
    state = rounds.close_opened(state)

    with pytest.raises(EventRefused, match="site 'e'"):
        rounds.reported(state, "e")


EVENTS = st.lists(
    st.tuples(st.sampled_from(["ready", "report", "lost", "close"]), st.sampled_from("abcdez")), max_size=40
)


@given(EVENTS, st.integers(1, 5))
def test_no_order_of_events_sums_fewer_sites_than_the_minimum(events: list[tuple[str, str]], minimum: int) -> None:
    """Whatever arrives, a summed round holds at least the floor, each once, each from its roster."""
    state = five(minimum)
    for kind, site in events:
        try:
            if kind == "ready":
                state = rounds.ready(state, site)
            elif kind == "report":
                state = rounds.reported(state, site)
            elif kind == "lost":
                state = rounds.lost(state, site, Loss.FAILED)
            else:
                close = rounds.close_opened if state.phase is Phase.OPENED else rounds.close_rostered
                state = close(state)
        except EventRefused:
            continue

    assert set(state.reported) <= set(state.roster) <= set(state.ready) <= set(state.cohort)
    assert len(set(state.reported)) == len(state.reported)
    assert not set(state.reported) & set(state.lost)
    if state.phase is Phase.SUMMED:
        assert len(state.reported) >= minimum


def test_the_property_above_would_notice_a_missing_floor() -> None:
    """Without the minimum a sum of one site is reached, so the property can fail."""
    state = Round(number=1, attempt=1, cohort=("a", "b", "c"), minimum=1)
    state = rounds.close_opened(rounds.ready(state, "a"))

    state = rounds.close_rostered(rounds.reported(state, "a"))

    assert state.phase is Phase.SUMMED
    assert len(state.reported) < 3
