"""Lanes: in order within one, never waiting for another, bounded in number."""

import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partsong.client.link import lanes as module
from partsong.client.link.lanes import Lanes


@settings(max_examples=30, deadline=None)
@given(asked=st.lists(st.integers(0, 4), max_size=40))
def test_each_lane_keeps_its_order_and_loses_nothing(asked: list[int]) -> None:
    """Five lanes at most, worked on by as many threads."""
    done: dict[int, list[int]] = {}
    left, over = threading.Semaphore(0), []
    lanes = Lanes(failed=over.append)

    for number, lane in enumerate(asked):
        lanes.put(lane, lambda n=number, one=lane: (done.setdefault(one, []).append(n), left.release()))  # type: ignore[misc]
    for _ in asked:
        assert left.acquire(timeout=30)

    assert lanes.close(timeout_s=30)
    assert done == {lane: [n for n, one in enumerate(asked) if one == lane] for lane in set(asked)}
    assert over == []


def test_a_lane_that_is_stuck_keeps_no_other_back() -> None:
    """And what comes after it in its own lane waits."""
    stuck, through, order = threading.Event(), threading.Event(), []
    lanes = Lanes(failed=order.append)

    lanes.put(1, lambda: (stuck.wait(30), order.append("first")))  # type: ignore[arg-type]
    lanes.put(1, lambda: order.append("second"))
    lanes.put(2, lambda: (order.append("other"), through.set()))  # type: ignore[arg-type]
    assert through.wait(30)
    before = list(order)
    stuck.set()

    assert before == ["other"]
    while len(order) < 3:
        threading.Event().wait(0.001)
    assert order == ["other", "first", "second"]


def test_more_lanes_than_threads_wait_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """With one thread, the second lane begins when the first is empty."""
    monkeypatch.setattr(module, "MOST_AT_ONCE", 1)
    stuck, done, order = threading.Event(), threading.Event(), []
    lanes = Lanes(failed=order.append)
    lanes.put(1, lambda: (stuck.wait(30), order.append("a")))  # type: ignore[arg-type]
    lanes.put(2, lambda: (order.append("b"), done.set()))  # type: ignore[arg-type]

    began = done.wait(0.1)
    stuck.set()

    assert not began
    assert done.wait(30)
    assert order == ["a", "b"]


def test_a_failure_is_told_and_the_lane_goes_on() -> None:
    """Whatever was raised."""
    told: list[BaseException] = []
    done = threading.Event()
    lanes = Lanes(failed=told.append)

    def fails() -> None:
        raise KeyboardInterrupt

    lanes.put(1, fails)
    lanes.put(1, done.set)

    assert done.wait(30)
    assert [type(err) for err in told] == [KeyboardInterrupt]


def test_once_closed_nothing_begins() -> None:
    """What waits is left; whoever closes is told whether all that was under way is over."""
    stuck, begun, order = threading.Event(), threading.Event(), []
    lanes = Lanes(failed=order.append)
    lanes.put(1, lambda: (begun.set(), stuck.wait(30)))  # type: ignore[arg-type]
    lanes.put(1, lambda: order.append("late"))
    assert begun.wait(30)

    early = lanes.close(timeout_s=0.01)
    lanes.put(2, lambda: order.append("later"))
    stuck.set()

    assert not early
    assert lanes.close(timeout_s=30)
    assert order == []
