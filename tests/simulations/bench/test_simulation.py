"""The benchmark of the simulator: its parts at a small size, and what it prints."""

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from partsong.common.config import SimulationConfig
from partsong.simulations.bench import cnn_sites, cnn_task, rivals, simulation
from partsong.simulations.bench.peers.process import NotMeasured, told
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


def test_rivals_that_are_not_there_give_null_and_the_reason(tmp_path: Path) -> None:
    """By their names in the report; nobody else's figures suffer."""
    nobody = str(tmp_path / "python")

    figures = {f.name: f for f in simulation.idle_sites(rounds=2, shapes=((5, 3),), peers_python=nobody)}

    rivals = [f for name, f in figures.items() if "speedup" in name]
    assert len(rivals) == 2
    assert all(f.value is None and f.reason for f in rivals)
    assert figures["s1_round_5_3"].value
    assert isinstance(simulation.peers(nobody), str)


def test_a_contender_that_fails_says_why() -> None:
    """Its last words are the reason."""
    with pytest.raises(NotMeasured, match="ValueError"):
        told("sim_sites", arguments=("no number", 3, 2))


def test_sites_train_the_whole_network_as_the_bare_loop_does() -> None:
    """The weights after the first round are the mean of the users'; the control is the mean of others."""
    first_P, said = cnn_sites.play(users=6, cohort=3, rounds=2)

    ends = [_mean_of(cohort) for cohort in (said["asked"][0], [(user + 1) % 6 for user in said["asked"][0]])]
    start_P = cnn_task.weights(cnn_task.network())
    learned = np.linalg.norm(ends[0] - start_P)
    assert [len(cohort) for cohort in said["asked"]] == [3, 3]
    assert np.linalg.norm(first_P - ends[0]) < rivals.NEAR * learned < np.linalg.norm(first_P - ends[1])


def _mean_of(cohort: list[int]) -> np.ndarray:
    """Train each user from the start, without a federation."""
    model = cnn_task.network()
    start_P, ends = cnn_task.weights(model), []
    for user in cohort:
        cnn_task.put(model, start_P)
        cnn_task.train(model, cnn_task.pictures(user))
        ends.append(cnn_task.weights(model).astype(np.float64))
    return np.mean(ends, axis=0)


@pytest.mark.nightly
def test_rivals_that_are_there_end_with_the_same_weights(tmp_path: Path) -> None:
    """One repetition at a small size, in the interpreter that PARTSONG_PEERS_PYTHON names, or this one."""
    python = os.environ.get("PARTSONG_PEERS_PYTHON", sys.executable)
    there = told("peers.versions", python=python).said
    if there["ray"] is None or there["pfl"] is None:
        pytest.skip("no flwr[simulation] and pfl in that interpreter")
    adapter = [
        "model=local", "model.source=tests/fixtures/tiny-llama", "data=icd10", "sites=3", "rounds=2",
        "partition.kind=iid", "training.steps_per_round=1", "evaluate_every=0",
    ]  # fmt: skip

    figures = [
        *simulation.idle_sites(rounds=2, shapes=((6, 3),), peers_python=python),
        *rivals.images_over_pfl(users=8, cohort=3, rounds=2, python=python),
        *rivals.adapter_over_flower(adapter, workers=1, repeats=1, python=python),
    ]

    assert {f.name: f.reason for f in figures if f.value is None} == {}


def test_the_page_of_measurements_names_every_figure() -> None:
    """By the names that `--json` prints; those of other shapes have a tail."""
    root = Path(__file__).parents[3]
    sources = [Path(module.__file__ or "").read_text() for module in (simulation, rivals)]

    printed = {name for source in sources for name in re.findall(r'name=f?"(s\d_[a-z_0-9]*[a-z0-9])["{]', source)}

    assert printed == {
        "s1_end_to_end_speedup_over_flower", "s1_steady_speedup_over_flower", "s2_speedup_over_pfl",
        "s3_over_bare_loop", "s3_stacked_over_unstacked", "s3_end_to_end_speedup_over_flower", "s4_over_s3_time",
    }  # fmt: skip
    page = (root / "docs" / "benchmarks.md").read_text()
    assert [name for name in (*printed, "s5_rss_mb_per_1000_sites") if f"`{name}`" not in page] == []


@pytest.mark.nightly
def test_an_adapter_is_compared_with_the_bare_loop_and_with_itself() -> None:
    """Each figure by its name."""
    adapter = [
        "model=local", "model.source=tests/fixtures/tiny-llama", "data=icd10", "data.max_length=64", "sites=20",
        "rounds=1", "partition.kind=iid", "training.steps_per_round=1", "evaluate_every=0",
    ]  # fmt: skip

    figures = {figure.name: figure for figure in simulation.against_bare_loop(adapter, repetitions=1)}

    assert set(figures) == {"s3_over_bare_loop", "s3_stacked_over_unstacked", "s4_over_s3_time"}
    assert all(figure.value for figure in figures.values()), {f.name: f.reason for f in figures.values()}


def test_memory_is_compared_between_few_and_many_sites() -> None:
    """Ten more sites cost nothing that could be seen."""
    (figure,) = simulation.registered_sites(few=10, many=1010, cohort=3, rounds=2)
    if figure.value is None:
        pytest.skip(figure.reason or "")
    assert figure.value < 20
