"""What a study says while it runs, where there is no terminal."""

import dataclasses
import io

from rich.console import Console

from partsong.simulations.studies.catalogue import STUDIES
from partsong.simulations.studies.outcome import Outcome
from partsong.simulations.studies.progress import Bar, cost

CELLS = [cell for cell in STUDIES["medquad"].cells("cpu") if cell.arm == "federated"][:4]


def test_every_cell_has_a_line_with_what_is_left() -> None:
    """The time left is named until there is nothing left; a failed run says why."""
    said = io.StringIO()

    with Bar(Console(file=said, width=200)) as bar:
        bar.begin(CELLS)
        for number, cell in enumerate(CELLS):
            bar.cell(cell)
            failed = "no sum" if number == 1 else None
            bar.done(cell, Outcome(accuracy=None if failed else 0.25, macro_recall=0.1, failed=failed, seconds=3.0))

    lines = said.getvalue().splitlines()
    assert len(lines) == 1 + len(CELLS)
    assert lines[0] == "4 cells to run"
    assert lines[1].startswith(f"{CELLS[0].key}: accuracy 0.250, 3 s; 3 left, about 0:00:")
    assert "failed: no sum" in lines[2]
    assert lines[-1].endswith("0 left, done")


def test_a_cell_that_reads_more_costs_more() -> None:
    """Longer texts, more visits, or more models to score; nothing is trained for a frozen reference."""
    cell = CELLS[0]
    longer = dataclasses.replace(cell, split=dataclasses.replace(cell.split, max_length=2 * cell.split.max_length))
    alone, frozen = (dataclasses.replace(cell, arm=arm) for arm in ("local", "frozen_local"))

    assert cost(longer) == 2 * cost(cell)
    assert cost(alone) > cost(cell) > cost(dataclasses.replace(frozen, method=None))
