"""Watchers see what happens and never hold the daemon up."""

import threading

import pytest

from partsong.common.control.feed import LONGEST_QUEUE, MOST_WATCHERS, Feed
from partsong.common.errors import InputError, TryAgain


def test_every_watcher_sees_every_event_in_order() -> None:
    """Two watchers get the same events, with the time of the feed's clock."""
    feed = Feed(clock=lambda: 1.5)

    with feed.watch() as one, feed.watch() as two:
        feed.tell("round_opened", round=1)
        feed.tell("round_summed", round=1, answered=3)
        seen = [[watcher.next(timeout_s=0) for _ in range(3)] for watcher in (one, two)]

    assert seen[0] == seen[1]
    assert [(e.event, e.time_ms, dict(e.facts)) for e in seen[0] if e] == [
        ("round_opened", 1500, {"round": 1}),
        ("round_summed", 1500, {"answered": 3, "round": 1}),
    ]
    assert seen[0][2] is None


def test_a_watcher_that_does_not_read_loses_the_oldest_and_knows_how_many() -> None:
    """The queue is bounded; the newest events are kept."""
    feed = Feed()

    with feed.watch() as lazy:
        for number in range(LONGEST_QUEUE + 7):
            feed.tell("step", step=number)
        first = lazy.next(timeout_s=0)

    assert first is not None
    assert (lazy.lost, first.facts["step"]) == (7, 7)


def test_a_full_queue_loses_nothing() -> None:
    """Control: one event less and none is lost."""
    feed = Feed()

    with feed.watch() as lazy:
        for number in range(LONGEST_QUEUE):
            feed.tell("step", step=number)

        assert lazy.lost == 0


def test_a_fact_that_may_not_be_told_reaches_nobody() -> None:
    """The teller gets the refusal, the watcher nothing."""
    feed = Feed()

    with feed.watch() as watcher:
        with pytest.raises(InputError, match="local_loss"):
            feed.tell("step", local_loss=0.5)

        assert watcher.next(timeout_s=0) is None


def test_a_closed_feed_ends_its_watchers_after_what_waits() -> None:
    """What was told before the end is still given; then `ended` holds, also for who comes late."""
    feed = Feed()

    with feed.watch() as watcher:
        feed.tell("stopping")
        feed.close()
        before = watcher.ended
        last = watcher.next(timeout_s=0)
        with feed.watch() as late:
            assert (before, last is not None, watcher.ended, late.ended) == (False, True, True, True)


def test_waiting_ends_with_the_event() -> None:
    """A watcher that waits is woken by another thread's event."""
    feed = Feed()
    with feed.watch() as watcher:
        teller = threading.Thread(target=feed.tell, args=("round_opened",))

        teller.start()
        seen = watcher.next(timeout_s=30)

        teller.join()
        assert seen is not None


def test_one_watcher_too_many_is_turned_away_until_one_leaves() -> None:
    """The number of watchers is bounded."""
    feed = Feed()
    watchers = [feed.watch() for _ in range(MOST_WATCHERS)]
    with pytest.raises(TryAgain, match=f"{MOST_WATCHERS} programs"):
        feed.watch()

    with watchers[0]:
        pass

    assert not feed.watch().ended
