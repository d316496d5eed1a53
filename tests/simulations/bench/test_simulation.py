"""The benchmark of the simulator: its parts at a small size, and what it prints."""

from collections.abc import Callable

import numpy as np
import pytest

from partsong.common.config import SimulationConfig
from partsong.simulations.bench import simulation
from partsong.simulations.bench.sim_sites import measured, play
from partsong.simulations.federation import Federation
from partsong.simulations.prepare import prepare
from partsong.simulations.run_dir import RunDir

Configure = Callable[..., SimulationConfig]


def test_idle_sites_are_played_and_their_sum_is_checked() -> None:
    """Thirty registered, four a round."""
    found = play(sites=30, cohort=4, rounds=3, numbers=50)
    assert found["round_ms"] is not None
    assert found["round_ms"] > 0


def test_a_run_has_a_process_of_its_own() -> None:
    """Its whole time includes the start of Python; its memory is that of a process with numpy."""
    found = measured(sites=10, cohort=3, rounds=2)
    assert 1000 * found.whole_s > found.round_ms > 0
    assert found.resident_mb is None or found.resident_mb > 10


def test_the_bare_loop_ends_with_the_weights_of_the_federation(configured: Configure) -> None:
    """Up to the rounding of the words; the control is another seed."""
    overrides = ("secure_sum=off", "rounds=2", "evaluate_every=0")

    def ended(*more: str) -> np.ndarray:
        config = configured(*overrides, *more)
        return Federation(prepare(config), RunDir.create(config, marks=())).run().trained_P

    bare_P = simulation.bare_loop(prepare(configured(*overrides)))
    near = simulation._NEAR * np.linalg.norm(bare_P)
    assert np.linalg.norm(ended() - bare_P) <= near
    assert np.linalg.norm(ended("seed=8") - bare_P) > near


def test_rivals_that_are_not_there_give_null_and_the_reason() -> None:
    """By their names in the report."""
    figures = {figure.name: figure for figure in simulation.idle_sites(rounds=2, shapes=((5, 3),))}

    rivals = [f for name, f in figures.items() if "speedup" in name]
    assert len(rivals) == 4
    assert all(f.value is None and f.reason for f in rivals)
    assert figures["s1_round_5_3"].value


def test_memory_is_compared_between_few_and_many_sites() -> None:
    """Ten more sites cost nothing that could be seen."""
    (figure,) = simulation.registered_sites(few=10, many=1010, cohort=3, rounds=2)
    if figure.value is None:
        pytest.skip(figure.reason or "")
    assert figure.value < 20
