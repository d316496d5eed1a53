"""What a person sees of a run, on a terminal and in a log."""

import io
from collections.abc import Callable

import pytest
from rich.console import Console

from partsong.common import events
from partsong.simulations.display import Display, LiveDisplay, PlainDisplay, display_for

SITES = ("trauma", "oncology", "maternity")
STORY: tuple[events.Event, ...] = (
    events.Evaluated(round=0, loss=9.64, exact=0.0),
    events.RunStarted(run="r", sites=SITES, rounds=3),
    events.RoundOpened(round=1, sites=SITES),
    *(events.SiteProgress(site=s, round=1, step=n, steps=2, local_loss=4.25) for s in SITES for n in (1, 2)),
    *(events.SiteReady(round=1, site=s) for s in SITES),
    events.SiteLost(round=1, site="trauma", why="silent"),
    *(events.SiteReported(round=1, site=s, bytes_out=12_369) for s in SITES[1:]),
    events.RoundSummed(round=1, sites=SITES[1:], loss=3.5, epsilon=1.25, update_norm=0.5),
    events.Evaluated(round=1, loss=2.92, exact=0.125),
)
NEXT: tuple[events.Event, ...] = (
    events.RoundOpened(round=2, sites=SITES),
    events.RoundAbandoned(round=2, reason="round 2: 1 sites ready, 3 needed; no sum was opened"),
)


def told(
    kind: Callable[..., Display], *, budget: float | None, terminal: bool, story: tuple[events.Event, ...] = STORY
) -> str:
    """Everything that was written while the story was told."""
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=140, no_color=True)
    with kind(console, title="demo", budget=budget, unit="record") as show:
        for event in story:
            show(event)
    return out.getvalue()


@pytest.mark.parametrize(("kind", "terminal"), [(LiveDisplay, True), (PlainDisplay, False)], ids=["live", "plain"])
def test_both_ways_show_sites_epsilon_and_what_never_leaves(kind: Callable[..., Display], *, terminal: bool) -> None:
    """Names, the budget, bytes, the drop-out, and that a local loss is never sent."""
    text = told(kind, budget=8.0, terminal=terminal)

    assert all(site in text for site in SITES)
    assert "epsilon 1.25 of 8" in text
    assert "federation loss (noised) 3.50" in text
    assert "never sent" in text
    assert "12,369" in text
    assert "4.25" in text
    assert "(silent)" in text
    assert "after round 1" in text
    assert "NOT PRIVATE" not in text


def test_a_new_round_starts_with_waiting_sites_and_what_they_sent_so_far() -> None:
    """The drop-out of the last round is over, its local losses are gone, the bytes add up."""
    text = told(LiveDisplay, budget=8.0, terminal=True, story=STORY + NEXT)

    assert "round 2 of 3" in text
    assert "waits" in text
    assert "round 2: 1 sites ready, 3 needed; no sum was opened" in text
    assert "silent" not in text
    assert "4.25" not in text
    assert "12,369" in text


@pytest.mark.parametrize(("kind", "terminal"), [(LiveDisplay, True), (PlainDisplay, False)], ids=["live", "plain"])
def test_without_a_budget_every_headline_says_not_private(kind: Callable[..., Display], *, terminal: bool) -> None:
    """And no epsilon is named."""
    text = told(kind, budget=None, terminal=terminal)

    assert "NOT PRIVATE" in text
    assert "epsilon" not in text
    assert "noised" not in text


def test_a_line_never_mixes_a_rounds_loss_with_an_older_score() -> None:
    """Held-out scores stand on a line of their own, with their round."""
    lines = told(PlainDisplay, budget=8.0, terminal=False, story=STORY + NEXT).splitlines()

    summed = next(line for line in lines if "federation loss" in line)
    assert "held-out" not in summed
    assert "  held-out loss 2.920, exact 0.125 after round 1" in lines
    assert "  round 2: 1 sites ready, 3 needed; no sum was opened" in lines


def test_a_name_that_looks_like_markup_is_shown_as_it_is() -> None:
    """Square brackets in a site's name are no style."""
    out = io.StringIO()
    show = PlainDisplay(Console(file=out), title="demo", budget=None, unit="record")
    show(events.RunStarted(run="r", sites=("[red]ward",), rounds=1))
    show(events.SiteReported(round=1, site="[red]ward", bytes_out=1))

    assert "[red]ward: sealed vector of 1 bytes" in out.getvalue()


def test_the_display_is_chosen_by_the_console() -> None:
    """Live on a terminal, plain lines in a pipe."""
    live = display_for(Console(file=io.StringIO(), force_terminal=True), title="t", budget=None, unit="record")
    plain = display_for(Console(file=io.StringIO()), title="t", budget=None, unit="record")

    assert isinstance(live, LiveDisplay)
    assert isinstance(plain, PlainDisplay)


@pytest.mark.parametrize(("round_s", "shown"), [(60.0, "sum of 2 sites; about 2 min left"), (1.0, "sum of 2 sites\n")])
def test_a_line_of_a_log_says_how_long_the_rounds_to_come_may_take(round_s: float, shown: str) -> None:
    """Two of three are left; seconds are not worth a word."""
    times = iter([0.0] + [round_s] * 9)
    out = io.StringIO()
    show = PlainDisplay(Console(file=out), title="demo", budget=None, unit="record", clock=lambda: next(times))
    for event in STORY:
        show(event)

    assert shown in out.getvalue()


def test_after_a_resume_only_the_rounds_of_this_process_count() -> None:
    """Round 2 of 3 was the first here and took a minute, so one minute is left."""
    times = iter([0.0, 60.0])
    out = io.StringIO()
    show = PlainDisplay(Console(file=out), title="demo", budget=None, unit="record", clock=lambda: next(times))
    show(events.RunStarted(run="r", sites=SITES, rounds=3))
    show(events.RoundOpened(round=2, sites=SITES))
    show(events.RoundSummed(round=2, sites=SITES, loss=3.5, epsilon=None, update_norm=0.5))

    assert "about 60 s left" in out.getvalue()
