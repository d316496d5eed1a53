"""The grids: what is crossed, and in which order it is run."""

import dataclasses

import pytest

from partsong.simulations.studies.catalogue import STUDIES
from partsong.simulations.studies.declare import Grid, sweep_of

GRIDS: list[tuple[str, Grid]] = [(name, grid) for name, study in STUDIES.items() for grid in study.grids]


@pytest.mark.parametrize(("name", "grid"), GRIDS)
def test_every_cell_has_a_key_of_its_own(name: str, grid: Grid) -> None:
    """A key is the name of a file."""
    cells = STUDIES[name].cells(grid)

    keys = [cell.key for cell in cells]

    assert len(set(keys)) == len(keys) > 0
    assert not any("/" in key for key in keys)


@pytest.mark.parametrize(("name", "grid"), GRIDS)
def test_every_trained_cell_has_three_swept_rates(name: str, grid: Grid) -> None:
    """Of its own method, arm and privacy, on one seed, and before it in the order."""
    cells = STUDIES[name].cells(grid)

    for cell in cells:
        swept = sweep_of(cell, cells)
        if cell.method is None:
            assert swept == ()
        elif cell.swept_rate is None:
            assert [other.swept_rate for other in swept] == list(cell.method.rates_at(cell.epsilon))
            assert {other.seed for other in swept} == {0}
            assert {other.placement for other in swept} == {cell.placement}
            assert all(cells.index(other) < cells.index(cell) for other in swept)


@pytest.mark.parametrize(("name", "grid"), GRIDS)
def test_a_grid_cut_short_has_every_line_once(name: str, grid: Grid) -> None:
    """All measured cells of a seed come before those of the next."""
    cells = [cell for cell in STUDIES[name].cells(grid) if cell.swept_rate is None and cell.method is not None]

    assert [cell.seed for cell in cells] == sorted(cell.seed for cell in cells)


def test_the_cpu_edition_of_banking77_is_the_declared_one() -> None:
    """Two draws, five methods and three seeds; about 19,000 visits."""
    cells = [c for c in STUDIES["banking77"].cells("cpu") if c.swept_rate is None and c.arm == "federated"]

    assert len(cells) == 2 * 5 * 3
    assert {c.split.alpha for c in cells} == {0.1, 0.01}
    assert {c.rank for c in cells} == {2}
    plain = cells[0].split.plain
    assert 18_000 < plain.rounds * plain.steps_per_round * plain.sampling_rate * 9_000 < 20_000


@pytest.mark.parametrize("grid", ["cpu", "full"])
def test_privacy_is_compared_at_equal_visits(grid: Grid) -> None:
    """Plain and private budgets of a corpus are within a tenth of each other."""
    for split in STUDIES["privacy"].grids[grid].splits:
        plain, private = (b.rounds * b.steps_per_round * b.sampling_rate for b in (split.plain, split.private))
        assert abs(private / plain - 1) < 0.1


def test_the_key_names_what_differs() -> None:
    """Another seed, rate or rank is another key; the group is without seed and rate."""
    cell = STUDIES["medquad"].cells("cpu")[-1]

    others = [dataclasses.replace(cell, seed=9), dataclasses.replace(cell, swept_rate=0.5)]

    assert len({cell.key, *(other.key for other in others)}) == 3
    assert {other.group for other in others} == {cell.group}
    assert dataclasses.replace(cell, rank=4).group != cell.group


@pytest.mark.parametrize("grid", ["cpu", "full"])
def test_mixed_ranks_stand_between_the_smallest_and_the_largest(grid: Grid) -> None:
    """Ranks 2, 4, 8 and 16 in turn once for each seed, beside FedIT at 2 and at 16 everywhere, its rate swept at 16."""
    cells = [cell for cell in STUDIES["ranks"].cells(grid) if cell.split.alpha == 0.1]

    measured = [cell for cell in cells if cell.swept_rate is None]
    assert {cell.ranks for cell in measured if cell.method and cell.method.name == "fedit"} >= {(2,), (16,)}
    for name in ("hlora", "sketch66"):
        mine = [cell for cell in measured if cell.method and cell.method.name == name]
        assert [cell.seed for cell in mine] == [0, 1, 2]
        assert {(cell.rank, cell.ranks) for cell in mine} == {(16, (2, 4, 8, 16))}
        assert "_r2-4-8-16_" in mine[0].group
    assert {cell.rank for cell in cells if cell.swept_rate is not None} == {16}
    assert sum((2, 4, 8, 16)[site % 4] for site in range(10)) == 66


def test_a_grid_that_would_leave_out_mixed_ranks_is_refused() -> None:
    """Its first rank, which is swept, has to be the largest of the sites'."""
    axes = STUDIES["ranks"].grids["cpu"]

    with pytest.raises(ValueError, match="begin with the largest of hlora's: 16"):
        dataclasses.replace(axes, ranks=(2, 16))
