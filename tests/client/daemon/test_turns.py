"""Turns at a site: one message at a time, in order within a plan, and who steps aside lets other plans go on."""

import threading
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partsong.client.daemon.turns import Turns


def started(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def ended(*threads: threading.Thread) -> bool:
    for thread in threads:
        thread.join(30)
    return not any(thread.is_alive() for thread in threads)


def test_who_steps_aside_lets_another_plan_go_on_and_not_its_own() -> None:
    """By hand: a second message of the plan waits until the first one is done; another plan's does not."""
    turns, order = Turns(), []
    inside, other_done = threading.Event(), threading.Event()

    def first() -> None:
        with turns.of("a"), turns.aside():
            inside.set()
            assert other_done.wait(30)
            order.append("first")

    def second() -> None:
        with turns.of("a"):
            order.append("second")

    def other() -> None:
        with turns.of("b"):
            order.append("other")
        other_done.set()

    threads = [started(first)]
    assert inside.wait(30)
    threads += [started(second), started(other)]

    assert ended(*threads)
    assert order == ["other", "first", "second"]


def test_who_does_not_step_aside_is_alone() -> None:
    """The control: the other plan's message begins only once the first one is over."""
    turns, begun = Turns(), threading.Event()
    with turns.of("a"):
        waiting = started(lambda: _enter(turns, begun))
        was_in = begun.wait(0.2)

    assert not was_in
    assert ended(waiting)
    assert begun.is_set()


def _enter(turns: Turns, begun: threading.Event) -> None:
    with turns.of("b"):
        begun.set()


@settings(max_examples=20, deadline=None)
@given(plans=st.lists(st.sampled_from("abc"), min_size=1, max_size=12))
def test_messages_of_a_plan_keep_their_order_and_never_overlap(plans: list[str]) -> None:
    """Each steps aside once; whatever the threads do, a plan's messages are worked on one after the other."""
    turns, log = Turns(), []
    queued = threading.Semaphore(0)

    def work(number: int, plan: str) -> None:
        with turns.of(plan):
            log.append(("in", plan, number))
            with turns.aside():
                queued.release()
            log.append(("out", plan, number))

    threads = []
    for number, plan in enumerate(plans):
        before = turns.waiting(plan)
        threads.append(started(lambda n=number, p=plan: work(n, p)))
        while turns.waiting(plan) == before and threads[-1].is_alive():
            queued.acquire(timeout=0.001)

    assert ended(*threads)
    for plan in set(plans):
        own = [(what, number) for what, of, number in log if of == plan]
        numbers = [n for n, p in enumerate(plans) if p == plan]
        assert own == [(what, n) for n in numbers for what in ("in", "out")]


def test_a_failure_gives_the_turn_to_the_next() -> None:
    """Also while it steps aside; nothing of the plan is left behind."""
    turns = Turns()
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), turns.of("a"), turns.aside():
            _ = 1 / 0

    with turns.of("a"):
        assert turns.waiting("a") == 1
    assert turns.waiting("a") == 0
