"""From a cell to a configuration, and what its digest covers."""

import dataclasses
from typing import Any

import pytest

from partsong.common.config import ModelConfig, SimulationConfig
from partsong.common.errors import ConfigError
from partsong.server.lockstep import require_lockstep
from partsong.simulations.configure import compose_simulation
from partsong.simulations.studies.catalogue import FFA, FFA_LOCKSTEP, STUDIES
from partsong.simulations.studies.cell_config import configuration, digest_of, spelled_out
from partsong.simulations.studies.declare import Cell

STUDY = STUDIES["banking77"]
MODEL = ModelConfig(source="x", task="classification")
DATA = {"a.csv": "00"}


def measured(arm: str = "federated") -> Cell:
    return next(c for c in STUDY.cells("cpu") if c.arm == arm and c.swept_rate is None)


def spelled(cell: Cell, *, rate: float = 0.01, model: ModelConfig = MODEL) -> dict[str, Any]:
    return spelled_out(cell, STUDY, model=model, rate=rate, records=9000)


def config_of(cell: Cell) -> SimulationConfig:
    return configuration(spelled(cell))


def test_compared_arms_take_the_same_steps() -> None:
    """Rounds, steps and sampling rate; each with its own cohort."""
    found = {arm: config_of(measured(arm)) for arm in ("federated", "pooled", "local")}

    assert len({(c.rounds, c.training.steps_per_round, c.privacy.sampling_rate) for c in found.values()}) == 1
    assert {arm: (c.cohort.minimum, c.secure_sum.mode) for arm, c in found.items()} == {
        "federated": (3, "sum-only"),
        "pooled": (1, "off"),
        "local": (1, "off"),
    }


def test_a_seed_is_of_the_split_the_start_and_the_samples() -> None:
    """Not of the samples and the noise of a private run."""
    cell = dataclasses.replace(measured(), seed=2)
    private = dataclasses.replace(cell, epsilon=8.0, placement="site")

    plain, noised = config_of(cell), config_of(private)

    assert (plain.seed, plain.partition.seed, plain.adapter.seed) == (2, 2, 2)
    assert (noised.seed, noised.partition.seed, noised.adapter.seed) == (None, 2, 2)
    assert (noised.privacy.mode, noised.privacy.epsilon) == ("dp", 8.0)


@pytest.mark.parametrize(
    "change",
    [{"seed": 1}, {"rank": 3}, {"epsilon": 8.0, "placement": "site"}, {"field_bits": 16}, {"swept_rate": 0.5}],
    ids=str,
)
def test_another_cell_has_another_digest(change: dict[str, object]) -> None:
    """Whatever of it changes."""
    cell = dataclasses.replace(measured(), method=FFA)
    other = dataclasses.replace(cell, **change)

    digests = [digest_of(c, spelled(c), data=DATA) for c in (cell, cell, other)]

    assert digests[0] == digests[1] != digests[2]


def test_data_rate_base_and_test_records_change_the_digest_and_threads_do_not() -> None:
    """A machine with more threads may use what another has finished."""
    cell = measured()
    first = digest_of(cell, spelled(cell), data=DATA)
    limited = dataclasses.replace(cell, split=dataclasses.replace(cell.split, test_limit=3))

    others = [
        digest_of(cell, spelled(cell), data={"a.csv": "01"}),
        digest_of(cell, spelled(cell, rate=0.02), data=DATA),
        digest_of(cell, spelled(cell, model=dataclasses.replace(MODEL, source="y")), data=DATA),
        digest_of(limited, spelled(limited), data=DATA),
    ]

    assert len({first, *others}) == 5
    threads = spelled(cell, model=dataclasses.replace(MODEL, threads=3))
    assert digest_of(cell, threads, data=DATA) == first


def test_noise_on_the_sum_takes_single_steps() -> None:
    """As many steps in all, taken by the coordinator, and as many records expected in each."""
    cell = dataclasses.replace(measured(), epsilon=8.0, placement="sum")

    on_sum, at_site = config_of(cell), config_of(dataclasses.replace(cell, placement="site"))

    assert on_sum.training.steps_per_round == 1
    assert on_sum.rounds == at_site.rounds * at_site.training.steps_per_round
    assert on_sum.privacy.expected_batch == pytest.approx(9000 * at_site.privacy.sampling_rate)
    assert (on_sum.optimizer.name, on_sum.optimizer.learning_rate) == ("fedadam", at_site.training.learning_rate)
    require_lockstep(on_sum)
    with pytest.raises(ConfigError):
        require_lockstep(at_site)


def test_lockstep_takes_as_many_steps_each_of_them_a_round() -> None:
    """Nothing else changes, and the settings are those that `steps=lockstep` gives a run."""
    cell = dataclasses.replace(measured(), method=FFA)
    other = dataclasses.replace(cell, method=FFA_LOCKSTEP)

    apart, together = config_of(cell), config_of(other)
    preset = compose_simulation(["steps=lockstep", "model=local", "model.source=x"])

    assert together.rounds == apart.rounds * apart.training.steps_per_round
    assert (together.training, together.optimizer) == (preset.training, preset.optimizer)
    same = {"training": apart.training, "optimizer": apart.optimizer, "rounds": apart.rounds}
    assert dataclasses.replace(together, **same) == apart
    assert (cell.lockstep, other.lockstep) == (False, True)


def test_only_a_study_that_looks_at_updates_spells_ranks_out() -> None:
    """Other studies' cells keep the names of what they have finished; a sweep is not looked into."""
    ranks = STUDIES["ranks"]
    mixed = next(c for c in ranks.cells("cpu") if c.method and c.method.name == "hlora" and c.swept_rate is None)
    plain = spelled(measured())

    played = spelled_out(mixed, ranks, model=MODEL, rate=0.01, records=9000)
    swept = spelled_out(dataclasses.replace(mixed, swept_rate=0.01), ranks, model=MODEL, rate=0.01, records=9000)

    assert (played["site_ranks"], played["measure_aggregation"]) == ([2, 4, 8, 16], True)
    assert swept == {name: value for name, value in played.items() if name != "measure_aggregation"}
    assert not {"site_ranks", "measure_aggregation"} & set(plain)
    assert configuration(played).site_ranks == (2, 4, 8, 16)
