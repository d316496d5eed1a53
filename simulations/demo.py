"""The demo: a whole federation in one process, told as it happens.

Arms: the base model as it is; the federation under differential privacy, with one site dropping out; the same without
privacy; each site alone. `--full` adds each site alone under differential privacy, and repeats with three public seeds.
Scoring every arm on every site's held-out records is possible only because one process plays all sites.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from partsong.client.model.host import Scores
from partsong.common.files import write_json
from partsong.server.report.claims import guarantee
from partsong.simulations.configure import compose_simulation
from partsong.simulations.demo_text import (
    compare,
    introduce,
    majority,
    show_answers,
    show_next,
    show_table,
    show_totals,
)
from partsong.simulations.federation import Federation, fresh_adapter, score_adapter
from partsong.simulations.marks import marks
from partsong.simulations.prepare import Prepared, prepare
from partsong.simulations.run_dir import RunDir
from partsong.simulations.simulate import Finished, finish

SEEDS_OF_FULL = (0, 1, 2)


@dataclass(frozen=True, kw_only=True, slots=True)
class Arm:
    """One model of the table."""

    name: str
    scores: Scores
    own: str | None = None
    """The site that this model belongs to."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Story:
    """Everything the demo ends with."""

    prepared: Prepared
    main: Finished
    arms: list[Arm]
    answers: list[tuple[str, str, str]] = field(default_factory=list)
    """Prompt, answer before, answer after."""
    repeats: dict[str, list[float]] = field(default_factory=dict)
    """Of `--full`: losses on the pooled held-out records, seed by seed."""
    seconds: float = 0.0


def run_demo(
    *, model: Literal["smollm2", "minilm"], bank: bool, full: bool, console: Console, out: Console | None
) -> dict[str, Any]:
    """Play the demo.

    Args:
        model: which real model.
        bank: seven payment institutions instead of five hospitals.
        full: more arms, three seeds.
        console: for talk and progress.
        out: for the results; None prints none.
    Returns:
        the facts, ready for JSON.
    Raises:
        InputError: a package with model or text is missing; says which and how to install it.
    """
    began = time.monotonic()
    choice = [f"+demo={model}{'-bank' if bank else ''}"]
    config = compose_simulation(choice)
    prepared = prepare(config, say=lambda text: console.print(text, highlight=False))
    introduce(console, prepared, bank=bank)
    run = RunDir.create(config, marks=marks(config))
    before = _base(prepared)
    answers = _answers(prepared)
    main = finish(prepared, run, console=console, title="federated, DP")
    after = _answers(prepared, main)
    arms = [Arm(name="base model", scores=before), *_others(prepared, choice, run, console)]
    arms.insert(-1, Arm(name="federated, DP", scores=_score(prepared, main)))
    story = Story(
        prepared=prepared,
        main=main,
        arms=arms,
        answers=[(p, a, b) for (p, a), (_, b) in zip(answers, after, strict=True)],
        repeats=_repeat(prepared, choice, run, console) if full else {},
        seconds=time.monotonic() - began,
    )
    if out is not None:
        show_table(out, story)
        show_answers(out, story)
        show_totals(out, story)
        show_next(out, story)
    facts = _facts(story)
    write_json(run.path / "demo.json", facts)
    return facts


def _others(prepared: Prepared, choice: list[str], run: RunDir, console: Console) -> Iterator[Arm]:
    """Each site alone, then the federation, without differential privacy."""
    alone = _variant(prepared, [*choice, "+demo/arm=alone"])
    with _bar(console, "each site alone, no privacy", len(prepared.sites)) as advance:
        for site in sorted(prepared.sites):
            yield Arm(name=f"{site} alone", scores=_quiet(alone, run, f"alone-{site}", (site,)), own=site)
            advance()
    open_arm = _variant(prepared, [*choice, "+demo/arm=open"])
    with _bar(console, "federated, no privacy", 1) as advance:
        scores = _quiet(open_arm, run, "federated-open", None)
        advance()
    yield Arm(name="federated, no privacy", scores=scores)


def _repeat(prepared: Prepared, choice: list[str], run: RunDir, console: Console) -> dict[str, list[float]]:
    """Federated DP against each site alone under the same DP, seed by seed."""
    found: dict[str, list[float]] = {"federated, DP": [], "mean of the sites alone, DP": []}
    work = len(SEEDS_OF_FULL) * (1 + len(prepared.sites))
    with _bar(console, "three seeds, each site alone under DP", work) as advance:
        for seed in SEEDS_OF_FULL:
            together = _variant(prepared, [*choice, f"adapter.seed={seed}", "drop=[]"])
            losses = _quiet(together, run, f"seed{seed}-federated", None).loss_N
            found["federated, DP"].append(float(losses.mean()))
            advance()
            single = _variant(prepared, [*choice, f"adapter.seed={seed}", "+demo/arm=alone-dp"])
            each = []
            for site in sorted(prepared.sites):
                each.append(float(_quiet(single, run, f"seed{seed}-{site}", (site,)).loss_N.mean()))
                advance()
            found["mean of the sites alone, DP"].append(float(np.mean(each)))
    return found


def _quiet(prepared: Prepared, run: RunDir, name: str, sites: tuple[str, ...] | None) -> Scores:
    """Run an arm in a folder of its own under the main run, without a display, and score its end."""
    folder = RunDir(run.path / "arms" / name)
    folder.path.mkdir(parents=True)
    result = Federation(prepared, folder, sites=sites).run()
    return score_adapter(prepared, result.trained_P, result.frozen_F)


def _variant(prepared: Prepared, overrides: list[str]) -> Prepared:
    """The same model and records under other training settings. The adapter's seed may differ, its shape may not."""
    config = compose_simulation(overrides)
    return prepared.with_config(dataclasses.replace(config, model=prepared.config.model, data=prepared.config.data))


def _base(prepared: Prepared) -> Scores:
    return score_adapter(prepared, *fresh_adapter(prepared))


def _score(prepared: Prepared, done: Finished) -> Scores:
    return score_adapter(prepared, done.result.trained_P, done.result.frozen_F)


def _answers(prepared: Prepared, done: Finished | None = None) -> list[tuple[str, str]]:
    """Let the model complete three held-out prompts; nothing for a classifier."""
    held_out = prepared.tables.held_out
    if prepared.host.is_classifier or held_out is None:
        return []
    if done is not None:
        prepared.host.put(done.result.trained_P)
    prompts = [held_out.rows[i].parts[0][1] for i in np.linspace(0, len(held_out) - 1, 3).astype(int)]
    return [(p, prepared.host.answer(p, max_new_tokens=8).partition("\n")[0]) for p in prompts]


@contextmanager
def _bar(console: Console, title: str, total: int) -> Iterator[Any]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        if not console.is_terminal:
            console.print(title, highlight=False)
        task = progress.add_task(title, total=total)

        def advance() -> None:
            progress.advance(task)
            if not console.is_terminal:
                console.print(f"  {progress.tasks[0].completed:.0f} of {total}", highlight=False)

        yield advance


def _facts(story: Story) -> dict[str, Any]:
    done = story.main
    return {
        "run": str(done.run.path),
        "adapter": str(done.run.adapter),
        "report": str(done.run.report),
        "epsilon": done.result.epsilon,
        "guarantee": guarantee(done.result.plan, epsilon=done.result.epsilon),
        "seconds": round(story.seconds, 1),
        "majority": majority(story.prepared),
        "arms": [compare(arm, story.prepared) for arm in story.arms],
        "repeats": story.repeats,
    }
