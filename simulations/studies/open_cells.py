"""The open cells of a list, played one after the other and kept: for studies in which no cell waits for another."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from partsong.common.errors import ConfigError
from partsong.simulations.studies.outcome import Store
from partsong.simulations.studies.settings import StudyConfig


class Named(Protocol):
    """A cell."""

    @property
    def key(self) -> str:
        """Unique in its study."""
        ...


C = TypeVar("C", bound=Named)
T = TypeVar("T")


def play_open(
    cells: Sequence[C],
    play: Callable[[C], T],
    *,
    config: StudyConfig,
    store: Store[T],
    digest: Callable[[C], str],
    machine: Mapping[str, Any],
    clock: Callable[[], float],
    say: Callable[[str], None],
    words: Callable[[T], str],
) -> list[tuple[C, T | None]]:
    """Play every cell that is wanted and open, and give all of them with what is known.

    Guarantees: a finished cell is on the disk before the next begins, so the same call after a kill goes on there.
    Args:
        cells: the grid.
        play: plays one.
        config: which cells are wanted (`only`), and for how long (`hours`).
        store: of finished cells.
        digest: names everything that a cell's result depends on.
        machine: that this is; kept with each cell.
        clock: seconds, monotonic.
        say: told how each cell ended.
        words: of an outcome, for people.
    Raises:
        ConfigError: `only` has what no cell is named; nothing was played.
    """
    for part in config.only:
        if not any(part in cell.key for cell in cells):
            raise ConfigError("only", found=repr(part), expected=f"a part of a cell's name, such as {cells[-1].key}")
    started = clock()
    for cell in cells:
        wanted = not config.only or any(part in cell.key for part in config.only)
        if not wanted or store.read(cell.key, digest(cell)) is not None:
            continue
        if config.hours is not None and clock() - started >= 3600 * config.hours:
            break
        outcome = play(cell)
        store.write(cell.key, digest(cell), outcome, machine=machine)
        say(f"{cell.key}: {words(outcome)}")
    return [(cell, store.read(cell.key, digest(cell))) for cell in cells]
