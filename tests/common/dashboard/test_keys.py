"""Sessions: opened by the key alone, few, and not for ever."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partsong.common.dashboard.keys import LIFETIME_S, MOST_SESSIONS, Sessions, form_word, is_form_word


class Clock:
    """Seconds that a test sets."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_session_holds_for_a_working_day() -> None:
    """Up to the last second of it."""
    clock = Clock()
    sessions = Sessions("key", clock=clock)
    session = sessions.open("key")
    assert session is not None

    held = []
    for later_s in (0.0, LIFETIME_S - 1, LIFETIME_S):
        clock.now = 1000.0 + later_s
        held.append(sessions.holds(session))

    assert held == [True, True, False]


def test_the_oldest_session_makes_room() -> None:
    """One more than may be open ends the first, and no other."""
    sessions = Sessions("key")

    opened = [sessions.open("key") or "" for _ in range(MOST_SESSIONS + 1)]

    assert [sessions.holds(one) for one in opened] == [False] + [True] * MOST_SESSIONS
    assert len(set(opened)) == MOST_SESSIONS + 1


def test_a_closed_session_stays_closed() -> None:
    """Closing one that never was does nothing."""
    sessions = Sessions("key")
    session, other = sessions.open("key") or "", sessions.open("key") or ""

    sessions.close(session)
    sessions.close("never")

    assert (sessions.holds(session), sessions.holds(other)) == (False, True)


@settings(max_examples=50, deadline=None)
@given(shown=st.text(max_size=60))
def test_only_the_key_opens_a_session(shown: str) -> None:
    """Any other text, an empty cookie, and the key in place of a session are strangers."""
    sessions = Sessions("the key itself")

    opened = sessions.open(shown)

    assert (opened is not None) == (shown == "the key itself")
    assert not sessions.holds(shown)
    assert not sessions.holds("the key itself")


@settings(max_examples=50, deadline=None)
@given(session=st.text(max_size=60), other=st.text(max_size=60))
def test_the_word_of_a_form_belongs_to_one_session_and_does_not_show_it(session: str, other: str) -> None:
    """Two sessions have two words."""

    word = form_word(session)

    assert is_form_word(session, word)
    assert is_form_word(other, word) == (session == other)
    assert len(session) < 4 or session not in word


@pytest.mark.parametrize("shown", ["", "x", "\N{SNOWMAN}" * 64])
def test_a_wrong_word_is_no_error_but_wrong(shown: str) -> None:
    """Whatever its letters."""

    assert not is_form_word("session", shown)
