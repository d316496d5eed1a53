"""The page of the study of generation."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from partsong.common.files import write_bytes
from partsong.server.report.render import escape
from partsong.simulations.generation.lineup import Cell, Lineup
from partsong.simulations.generation.play import Answers
from partsong.simulations.studies import page_words
from partsong.simulations.studies.settings import StudyConfig
from partsong.simulations.studies.sources import Source
from partsong.simulations.studies.summary import spread
from partsong.simulations.studies.tables import table

Found = Sequence[tuple[Cell, Answers | None]]
Pick = Callable[[Cell, Answers], float | None]
"""Reads a value out of a finished cell; None: it has none."""

_CPU = ": few pairs, short ones, one seed. **It shows a direction and no more**"
_READING = (
    "Loss is of the held-out answers' tokens, each predicted from the question and the right tokens before it, in "
    "nats; perplexity is e to that power. ROUGE-L compares the model's own greedy answer with the beginning of the "
    "publisher's; it is of {continued} held-out questions of each site, so small differences of it mean nothing. "
    "`each site alone` is the mean over the sites' own models, each on all held-out answers; the lines below it are "
    "those models one by one. The own kind is the site's own publisher: for a model of all sites, the mean over them. "
    "± is the standard deviation over seeds, where there are several."
)
_HOW = (
    "FFA of rank 8 on {targets}, and nothing else; AdamW at {rate:g}, the same for every line and **not swept**; "
    "no differential privacy. {rounds} rounds of {steps} steps, each on {share:g} of a site's pairs, also for pooled "
    "and alone. Each publisher gives at most {train} pairs to learn from and {test} to be tested on, chosen by a "
    "public hash; no document is on both sides. A pair is cut at {length} tokens, an own answer at {new}."
)
_ARMS = {"base": "base model, nothing trained", "pooled": "pooled at one site", "federated": "federated"}


def write_page(
    found: Found,
    lineup: Lineup,
    *,
    config: StudyConfig,
    sources: Sequence[Source],
    machine: Mapping[str, Any],
    day: dt.date,
) -> Path:
    """Write the page; one of the same day and grid is replaced.

    Args:
        found: every cell of the grid, with what it ended with where it was played.
        lineup: the grid.
        config: settings of the study.
        sources: its files.
        machine: that it ran on.
        day: of the page.
    """
    done = [answers for _, answers in found if answers is not None]
    parts = [
        f"# Answers of a language model, {day.isoformat()}",
        "Does joining pay for a language model that learns to answer, where each publisher has a style of its own?",
        page_words.state(config, done=len(done), cells=len(found), cpu=_CPU),
        "## Results",
        _READING.format(continued=lineup.continued),
        _results(found, lineup),
        "Loss by whose answers are read:",
        _by_site(found, lineup),
        "## What did not work",
        "\n".join(f"- {escape(text)}" for text in _shortfalls(found, lineup)) or "Nothing that these cells show.",
        "## How",
        *_how(lineup, config, machine, hours=sum(answers.seconds for answers in done) / 3600),
        "## Data",
        page_words.files(sources),
    ]
    stem = f"{day.isoformat()}-generation" + ("" if config.grid == "cpu" else f"-{config.grid}")
    page = Path(config.out) / f"{stem}.md"
    write_bytes(page, ("\n\n".join(parts) + "\n").encode())
    return page


def _results(found: Found, lineup: Lineup) -> str:
    head = ("model", "seeds", "loss", "perplexity", "loss, own kind", "ROUGE-L", "MB sent by a site")
    alone = ("each site alone", _of(found, "alone"))
    return table(head, [_row(name, cells) for name, cells in (*_joint(found), alone, *_each(found, lineup))])


def _row(name: str, cells: Found) -> list[str]:
    """Compose a line of cells that differ in their seed, or in the site that the model belongs to."""
    losses = _by_seed(cells, lambda _, answers: answers.loss)
    sent = _by_seed(cells, lambda _, answers: answers.bytes_per_site)
    return [
        escape(name),
        f"{sum(answers is not None and answers.loss is not None for _, answers in cells)} of {len(cells)}",
        _spread(losses),
        f"{math.exp(np.mean(losses)):.2f}" if losses else "",
        _spread(_by_seed(cells, _own)),
        _spread(_by_seed(cells, lambda _, answers: answers.rouge)),
        f"{np.mean(sent) / 1e6:.2f}" if sent else "",
    ]


def _by_site(found: Found, lineup: Lineup) -> str:
    rows = [
        [escape(name), *(_spread(_by_seed(cells, _reading(site))) for site in lineup.sites)]
        for name, cells in (*_joint(found), *_each(found, lineup))
    ]
    return table(("model", *lineup.sites), rows)


def _joint(found: Found) -> list[tuple[str, Found]]:
    return [(name, _of(found, arm)) for arm, name in _ARMS.items()]


def _each(found: Found, lineup: Lineup) -> list[tuple[str, Found]]:
    return [(f"{site} alone", [one for one in found if one[0].site == site]) for site in lineup.sites]


def _own(cell: Cell, answers: Answers) -> float | None:
    """Give the loss on the own publisher's answers; of a model of all sites, the mean over them."""
    losses = answers.loss_by_site
    if not losses:
        return None
    return float(np.mean(list(losses.values()))) if cell.site is None else losses[cell.site]


def _reading(site: str) -> Pick:
    return lambda _, answers: answers.loss_by_site.get(site)


def _by_seed(cells: Found, pick: Pick) -> list[float]:
    """Give one value for each seed that has any: the mean over its cells."""
    values: dict[int, list[float]] = {}
    for cell, answers in cells:
        value = None if answers is None else pick(cell, answers)
        if value is not None:
            values.setdefault(cell.seed, []).append(value)
    return [float(np.mean(mine)) for mine in values.values()]


def _shortfalls(found: Found, lineup: Lineup) -> Iterator[str]:
    """Say which runs failed, and where the joint model is worse than another one."""
    yield from (f"{cell.key}: {answers.failed}" for cell, answers in found if answers is not None and answers.failed)
    joint, losses = _of(found, "federated"), dict(_joint(found))
    ours = _by_seed(joint, lambda _, answers: answers.loss)
    for name in (_ARMS["base"], _ARMS["pooled"]):
        theirs = _by_seed(losses[name], lambda _, answers: answers.loss)
        if ours and theirs and np.mean(ours) > np.mean(theirs):
            yield f"federated: loss {np.mean(ours) - np.mean(theirs):.3f} above {name}."
    worse = []
    for site, (_, cells) in zip(lineup.sites, _each(found, lineup), strict=True):
        own, here = _by_seed(cells, _own), _by_seed(joint, _reading(site))
        if own and here and np.mean(own) < np.mean(here):
            worse.append(site)
    if worse:
        yield f"federated: sites that read answers of their own kind better alone: {', '.join(worse)}."


def _of(found: Found, arm: str) -> Found:
    return [(cell, answers) for cell, answers in found if cell.arm == arm]


def _spread(values: Sequence[float]) -> str:
    """Write mean and, over several seeds, standard deviation."""
    found = spread(values)
    return "" if found is None else str(found)


def _how(lineup: Lineup, config: StudyConfig, machine: Mapping[str, Any], *, hours: float) -> Iterator[str]:
    yield page_words.command("generation", config)
    yield f"{page_words.base(config)} " + _HOW.format(
        targets=" and ".join(f"`{target}`" for target in lineup.targets),
        rate=lineup.learning_rate,
        rounds=lineup.rounds,
        steps=lineup.steps_per_round,
        share=lineup.sampling_rate,
        train=lineup.train,
        test=lineup.test,
        length=lineup.max_length,
        new=lineup.most_new_tokens,
    )
    yield page_words.played_on(machine, hours=hours)
