"""The dated page of a study: what was asked, run and found, and what was not."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from partsong.common.files import write_bytes
from partsong.server.report.render import escape
from partsong.simulations.studies import page_words, tables, verdicts
from partsong.simulations.studies.corpus import Corpus
from partsong.simulations.studies.declare import Budget
from partsong.simulations.studies.plots import Curve, Dots, dot_plot, line_plot
from partsong.simulations.studies.runner import Entry, Terms
from partsong.simulations.studies.settings import StudyConfig
from partsong.simulations.studies.sources import Source
from partsong.simulations.studies.summary import Line, lines

_READING = (
    "Accuracy and macro recall are of all held-out records (of models that belong to a site: the mean over the sites); "
    "the own tests are of each site's own kind of records: those of its publisher, or the common test weighed by its "
    "mix of labels. Mean ± standard deviation over seeds."
)
_UNCHARGED = (
    "The sweep is not charged to any privacy budget; a federation that sweeps on private records would have to pay for "
    "it."
)
_BEYOND = "A better rate may lie beyond what was tried for these lines:"
_LOST = (
    "What averages lose of the mean of the sites' products, relative, the mean over layers and rounds, and what a site "
    "of each rank sends in a run:"
)
_SETTING = (
    "LoRA on query and value, and a classification head in the update; AdamW, whose state begins anew in each round; "
    "uniform mean over sites. Pooled and alone take the same rounds, steps and sampling rate."
)
_LOCKSTEP = (
    "In lockstep ({lines}) every step is a round: sites send gradients, and the coordinator takes Adam's step on their "
    "mean."
)


def write_page(
    terms: Terms,
    entries: Sequence[Entry],
    *,
    config: StudyConfig,
    sources: Sequence[Source],
    corpora: Mapping[str, Corpus],
    machine: Mapping[str, Any],
    day: dt.date,
) -> Path:
    """Write page and figures; those of the same day, study and grid are replaced.

    Args:
        terms: of the study.
        entries: every cell of its grid.
        config: its settings.
        sources: its files.
        corpora: what was read from them.
        machine: that it ran on.
        day: of the page.
    Returns:
        where the page is.
    """
    stem = f"{day.isoformat()}-{terms.study.name}" + ("" if config.grid == "cpu" else f"-{config.grid}")
    folder, found = Path(config.out), lines(entries)
    figures = {f"{stem}-{name}.svg": drawn for name, drawn in _figures(found)}
    text = _text(
        terms,
        entries,
        found,
        config=config,
        sources=sources,
        corpora=corpora,
        machine=machine,
        day=day,
        figures=tuple(figures),
    )
    for name, drawn in figures.items():
        write_bytes(folder / name, drawn.encode())
    write_bytes(folder / f"{stem}.md", text.encode())
    return folder / f"{stem}.md"


def _text(
    terms: Terms,
    entries: Sequence[Entry],
    found: Sequence[Line],
    *,
    config: StudyConfig,
    sources: Sequence[Source],
    corpora: Mapping[str, Corpus],
    machine: Mapping[str, Any],
    day: dt.date,
    figures: Sequence[str],
) -> str:
    parts = [
        f"# {terms.study.title}, {day.isoformat()}",
        terms.study.question,
        page_words.state(config, done=sum(entry.outcome is not None for entry in entries), cells=len(entries)),
        "## Results",
        *_results(found, figures),
        "## Learning rates",
        _rates(entries, config),
        "## What did not work",
        _listed(verdicts.shortfalls(found), none="Nothing that these cells show."),
        "## Empty cells",
        _listed(verdicts.empty(entries), none="None."),
        "## How",
        _how(terms, entries, config, machine),
        "## Data",
        _data(sources, corpora),
    ]
    return "\n\n".join(parts) + "\n"


def _results(found: Sequence[Line], figures: Sequence[str]) -> list[str]:
    parts = [_READING]
    for split in dict.fromkeys(line.cell.split.name for line in found):
        mine = [line for line in found if line.cell.split.name == split]
        parts += [f"### {split}", tables.results(mine)]
        if {site for line in mine for site in line.own_by_site} and mine[0].cell.split.alpha is None:
            parts += ["Site by site:", tables.by_site(mine)]
        if any(line.lost is not None for line in mine):
            parts += [_LOST, tables.averages(mine)]
        if any(line.cell.arm != "federated" for line in found):
            parts += ["\n".join(_spaced(verdicts.gains(mine, among=found)))]
    return [*parts, *(f"![{name}]({name})" for name in figures)]


def _spaced(sentences: Sequence[str]) -> list[str]:
    """Part a list from the paragraph before and after it, as Markdown wants."""
    spaced: list[str] = []
    for sentence in sentences:
        if spaced and not (sentence.startswith("- ") and spaced[-1].startswith("- ")):
            spaced.append("")
        spaced.append(sentence)
    return spaced


def _rates(entries: Sequence[Entry], config: StudyConfig) -> str:
    if not any(entry.cell.swept_rate is not None for entry in entries):
        return "Nothing is trained here."
    how = (
        "Each line takes the rate with the best accuracy on validation records, which nobody trains on, with one seed."
        if config.sweep == "run"
        else "**Not swept:** each line has the middle one of the three rates that its sweep would try."
    )
    return "\n\n".join([f"{how} {_UNCHARGED}", tables.sweep(entries), *_edges(entries)])


def _edges(entries: Sequence[Entry]) -> list[str]:
    found = verdicts.edges(entries)
    return [_BEYOND, _listed(found, none="")] if found else []


def _listed(sentences: Sequence[str], *, none: str) -> str:
    return "\n".join(f"- {escape(sentence)}" for sentence in sentences) if sentences else none


def _how(terms: Terms, entries: Sequence[Entry], config: StudyConfig, machine: Mapping[str, Any]) -> str:
    splits = dict.fromkeys(entry.cell.split for entry in entries)
    budgets = [
        f"{split.name}: {_budget(split.plain)}; under differential privacy {_budget(split.private)}; "
        f"texts cut at {split.max_length} tokens; "
        f"{'all' if split.test_limit is None else f'at most {split.test_limit:,}'} test records."
        for split in splits
    ]
    spent = sum(entry.outcome.seconds for entry in entries if entry.outcome is not None)
    return "\n".join(
        [
            page_words.command(terms.study.name, config),
            "",
            " ".join([page_words.base(config), _SETTING, *_lockstep(entries)]),
            "",
            *(f"- {budget}" for budget in budgets),
            f"- {page_words.played_on(machine, hours=spent / 3600)}",
        ]
    )


def _lockstep(entries: Sequence[Entry]) -> list[str]:
    lines = dict.fromkeys(
        "noise on the sum" if entry.cell.epsilon is not None else tables.name_of(entry.cell)
        for entry in entries
        if entry.cell.lockstep
    )
    return [_LOCKSTEP.format(lines=", ".join(lines))] if lines else []


def _budget(budget: Budget) -> str:
    steps = f"{budget.rounds} rounds of {budget.steps_per_round} steps"
    return f"{steps}, each on {budget.sampling_rate:g} of a site's records"


def _data(sources: Sequence[Source], corpora: Mapping[str, Corpus]) -> str:
    sizes = [
        f"{corpus.name}: {len(corpus.train):,} training, {len(corpus.validation):,} validation and "
        f"{len(corpus.test):,} test records, {len(corpus.labels)} labels."
        for corpus in corpora.values()
    ]
    rows = [[f"`{s.path}`", s.origin, s.licence, f"`{s.sha256}`"] for s in sources]
    listed = tables.table(("file below `data_dir`", "from", "licence", "SHA-256"), rows) if rows else "Made up."
    return "\n".join([*(f"- {size}" for size in sizes), "", listed])


def _figures(found: Sequence[Line]) -> list[tuple[str, str]]:
    drawn = []
    for split in dict.fromkeys(line.cell.split.name for line in found):
        mine = [line for line in found if line.cell.split.name == split and line.done]
        rows = [
            Dots(
                name=tables.name_of(line.cell),
                values=tuple(outcome.accuracy for outcome in line.done if outcome.accuracy is not None),
            )
            for line in mine
        ]
        if rows:
            drawn.append((split, dot_plot(f"Accuracy on {split}, a dot for each seed", rows)))
        curves = [
            Curve(
                name=tables.name_of(line.cell),
                points=tuple((point.bytes_per_site / 1e6, point.accuracy) for point in line.done[0].curve),
            )
            for line in mine
            if line.done[0].curve
        ]
        if curves:
            drawn.append((f"{split}-bytes", line_plot(f"Accuracy on {split} over bytes", "MB sent by a site", curves)))
    return drawn
