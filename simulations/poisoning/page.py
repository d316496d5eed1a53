"""The page of the study of poisoning."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from partsong.common.files import write_bytes
from partsong.simulations.poisoning.lineup import Cell, Lineup
from partsong.simulations.studies import page_words
from partsong.simulations.studies.outcome import Outcome
from partsong.simulations.studies.settings import StudyConfig
from partsong.simulations.studies.sources import Source

_WORDS = {
    "nobody": "nobody poisons",
    "wrong-labels": "trains on wrong labels",
    "turned": "turns its update round",
    "turned-30-fold": "turns its update round, 30-fold",
    "turned-30-fold-forged-votes": "the same, and forges its votes",
}
_AGAINST = {
    "none": "nothing but the field of a number",
    "clip": "the clip of a plan",
    "vote": "votes, no clip",
    "clip-vote": "clip and votes",
    "clip-median": "clip and the median of three groups",
}
_HOW = (
    "FFA of rank 8 on query and value with a classification head, AdamW, labels drawn with Dirichlet {alpha:g}, no "
    "differential privacy, so votes have no noise. {rounds} rounds of {steps} steps, each on {rate:g} of a site's "
    "records; texts cut at {length} tokens. Votes are by at most {votes} validation records over all sites, no site "
    "with more votes than each has records for it; scores are by test records. Neither is trained on. The clip is what "
    "AdamW can reach in a round; without it an update may be a thousand times as long. A poisoner's update passes the "
    "seal, which shortens it to the clip; the check of the sum's length is always on and meets only who breaks the "
    "seal (tests/common/secure_sum/test_length.py). Groups are dealt by the names of run and sites, so two poisoners "
    "may be in one group or in two, where they own the median of three; no colluder is tolerated there."
)

Found = Sequence[tuple[Cell, Outcome | None]]


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
        found: every cell of the grid, with its outcome where it was played.
        lineup: the grid.
        config: settings of the study.
        sources: its files.
        machine: that it ran on.
        day: of the page.
    """
    stem = f"{day.isoformat()}-poisoning" + ("" if config.grid == "cpu" else f"-{config.grid}")
    done = [outcome for _, outcome in found if outcome is not None]
    parts = [
        f"# Poisoning sites, {day.isoformat()}",
        "What is left of a federation with sites that poison, behind each defence?",
        page_words.state(config, done=len(done), cells=len(found)),
        "## Results",
        "Accuracy on test records, mean ± standard deviation over seeds; rounds that a vote has dropped, in all seeds.",
        *(part for name in dict.fromkeys(cell.cohort.name for cell, _ in found) for part in _cohort(name, found)),
        "## How",
        page_words.command("poisoning", config),
        f"{page_words.base(config)} "
        + _HOW.format(
            alpha=lineup.alpha,
            rounds=lineup.rounds,
            steps=lineup.steps_per_round,
            rate=lineup.sampling_rate,
            length=lineup.max_length,
            votes=lineup.vote_limit,
        ),
        page_words.played_on(machine, hours=sum(outcome.seconds for outcome in done) / 3600),
        "## Data",
        page_words.files(sources),
    ]
    page = Path(config.out) / f"{stem}.md"
    write_bytes(page, ("\n\n".join(parts) + "\n").encode())
    return page


def _cohort(name: str, found: Found) -> list[str]:
    poisoners, sites = name.split("of")
    rows = ["| the poisoners | against it | accuracy | seeds | rounds dropped |", "|---|---|---|---|---|"]
    lines: dict[tuple[str, str], list[Outcome | None]] = {}
    for cell, outcome in found:
        if cell.cohort.name == name:
            lines.setdefault((cell.attack, cell.defence.name), []).append(outcome)
    for (attack, defence), outcomes in lines.items():
        rows.append(f"| {_WORDS[attack]} | {_AGAINST[defence]} | {_numbers(outcomes, votes='vote' in defence)} |")
    return [f"### {poisoners} of {sites} sites", "\n".join(rows)]


def _numbers(outcomes: Sequence[Outcome | None], *, votes: bool) -> str:
    played = [outcome for outcome in outcomes if outcome is not None]
    right = [outcome.accuracy for outcome in played if outcome.accuracy is not None]
    if not right:
        return f"{'failed: ' + str(played[0].failed) if played else ''} | {len(right)} | "
    spread = f" ± {np.std(right, ddof=1):.3f}" if len(right) > 1 else ""
    dropped = str(sum(len(outcome.dropped) for outcome in played)) if votes else ""
    return f"{np.mean(right):.3f}{spread} | {len(right)} | {dropped}"
