"""What the demo prints: who takes part, the table of arms, sample answers, and where to go from here."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.table import Table

from partsong.common.privacy.accounting import neighbours
from partsong.simulations.marks import marks
from partsong.simulations.prepare import Prepared

if TYPE_CHECKING:
    from partsong.simulations.demo import Arm, Story


def introduce(console: Console, prepared: Prepared, *, bank: bool) -> None:
    """Say who takes part, with what, and what the drop-out will show."""
    config, tables = prepared.config, prepared.tables
    who = "payment institutions" if bank else "hospitals"
    console.print(f"\n[bold]{len(tables.sites)} {who} tune one adapter for {prepared.host.name} together.[/bold]")
    if bank:
        console.print("Sets of this size gain little under privacy: see the table at the end.")
    for name, table in tables.sites.items():
        cut = prepared.sites[name].report
        short = f", {cut.truncated} cut to {config.data.max_length} tokens" if cut.truncated else ""
        console.print(f"  {name}: {len(table):,} records{short}", highlight=False)
    example = next(iter(tables.sites.values())).rows[0].parts
    console.print(f"  a record (public text): {example[0][1]!r} -> {example[1][1]!r}", highlight=False, markup=False)
    for drop in config.drop:
        site, _, rest = drop.partition("@")
        console.print(f"  in round {rest.partition(':')[0]}, {site} will fall silent after it was counted on")


def show_table(out: Console, story: Story) -> None:
    """Every arm on the pooled held-out records, then each site's own records under the models it could have."""
    facts = [compare(arm, story.prepared) for arm in story.arms]
    pooled = Table(title="All sites' held-out records", title_justify="left")
    for name in ("model", "loss", "exact"):
        pooled.add_column(name, justify="left" if name == "model" else "right")
    for row in facts:
        pooled.add_row(row["name"], f"{row['loss']:.3f}", f"{row['exact']:.3f}")
    out.print(pooled)
    together = [(arm, row) for arm, row in zip(story.arms, facts, strict=True) if arm.own is None]
    own = Table(title="Each site's own held-out records: share answered exactly", title_justify="left")
    for name in ("site", "records", "alone", *(arm.name for arm, _ in together)):
        own.add_column(name, justify="left" if name == "site" else "right")
    for site, chosen in story.prepared.tables.held_out_by_site.items():
        alone = next((r["own"][site] for a, r in zip(story.arms, facts, strict=True) if a.own == site), None)
        cells = [_share(alone), *(_share(row["own"].get(site)) for _, row in together)]
        own.add_row(site, str(len(chosen)), *cells)
    out.print(own)
    out.print(f"Always giving the most frequent answer would be right for {majority(story.prepared):.3f} of all.")
    out.print("Every model can be scored on everybody's records only because one process plays all sites.")
    for name, losses in story.repeats.items():
        mean, spread = float(np.mean(losses)), float(np.std(losses, ddof=1))
        out.print(f"{name}: pooled loss {mean:.3f} +- {spread:.3f} over {len(losses)} seeds", highlight=False)


def show_answers(out: Console, story: Story) -> None:
    """Sample answers before and after."""
    held_out = story.prepared.tables.held_out
    if not story.answers or held_out is None:
        return
    right = {row.parts[0][1]: row.parts[1][1].strip() for row in held_out.rows}
    table = Table(title="Held-out prompts, answered", title_justify="left")
    for column in ("prompt", "base model", "federated, DP", "right"):
        table.add_column(column, overflow="fold")
    for prompt, before, after in story.answers:
        table.add_row(prompt, before, after, right[prompt])
    out.print(table)


def show_totals(out: Console, story: Story) -> None:
    """What it cost: privacy, bytes, seconds; and what is not protected."""
    result, dp = story.main.result, story.main.result.plan.dp
    if dp is not None:
        out.print(
            f"Privacy: epsilon {result.epsilon:.2f} at delta {dp.delta:g} for each {dp.unit} at each site "
            f"(noise multiplier {dp.noise_multiplier:.3f}, clip {dp.clip_norm:g}; neighbours: {neighbours(dp.unit)}).",
            highlight=False,
        )
    sent = {site: sum(h["bytes_out"].get(site, 0) for h in result.history) for site in story.prepared.sites}
    out.print("Bytes out: " + ", ".join(f"{site} {size:,}" for site, size in sent.items()), highlight=False)
    for entry in result.history:
        for site, why in entry["lost"].items():
            out.print(f"Round {entry['round']} finished without {site} ({why}).", highlight=False)
    for mark in marks(story.prepared.config):
        out.print(f"! {mark}", style="yellow", highlight=False)
    out.print(f"{story.seconds:.0f} s in all.", highlight=False)


def show_next(out: Console, story: Story) -> None:
    """Where things lie and the next three commands."""
    run, program = story.main.run, _program()
    out.print(f"\nadapter: {run.adapter}\nreport:  {run.report}\n\nNext:", highlight=False, soft_wrap=True)
    out.print(f"  {program} report {run.path}", highlight=False, soft_wrap=True)
    out.print(f"  {program} export {run.path} merged --merge", highlight=False, soft_wrap=True)
    own = f"  {program} simulate data=local data.path=YOUR.jsonl sites=5 privacy.epsilon=4"
    out.print(own, highlight=False, soft_wrap=True)


def compare(arm: Arm, prepared: Prepared) -> dict[str, Any]:
    """One row of the table as numbers."""
    own = prepared.tables.held_out_by_site
    return {
        "name": arm.name,
        "loss": float(arm.scores.loss_N.mean()),
        "exact": float(arm.scores.hit_N.mean()),
        "own": {site: float(arm.scores.hit_N[chosen].mean()) for site, chosen in own.items() if len(chosen)},
    }


def majority(prepared: Prepared) -> float:
    """Share of the most frequent answer among the pooled held-out records."""
    held_out = prepared.tables.held_out
    if held_out is None:
        return 0.0
    _, counts = np.unique([row.parts[1][1] for row in held_out.rows], return_counts=True)
    return float(counts.max() / counts.sum())


def _program() -> str:
    """Name this program as the reader can call it from here."""
    if shutil.which("partsong"):
        return "partsong"
    beside = Path(sys.executable).parent / "partsong"
    return os.path.relpath(beside) if beside.exists() else "python -m partsong"


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
