"""The frozen reference: features of a pass, and the linear classifier on them."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from scipy import optimize

from partsong.common.config import ModelConfig
from partsong.simulations.prepare import Prepared, prepare
from partsong.simulations.studies import made_up
from partsong.simulations.studies.catalogue import STUDIES
from partsong.simulations.studies.cell_config import configuration, spelled_out
from partsong.simulations.studies.corpus import divide
from partsong.simulations.studies.feature_shelf import FeatureShelf
from partsong.simulations.studies.features import features, fit

TINY = ModelConfig(source=str(Path(__file__).parents[2] / "fixtures" / "tiny-bert"), task="classification", threads=1)


@pytest.fixture
def prepared() -> Prepared:
    return prepared_from(TINY)


def prepared_from(model: ModelConfig) -> Prepared:
    study = STUDIES["medquad"]
    cell = study.cells("smoke")[0]
    config = configuration(spelled_out(cell, study, model=model, rate=None, records=160))
    return prepare(config, tables=divide(made_up.make(), config.partition, sites=3, part="test").tables)


def test_a_text_has_the_same_features_in_any_pass(prepared: Prepared) -> None:
    """Alone or with longer texts: padding does not count. They have length 1."""
    assert prepared.held_out is not None
    records = prepared.held_out.records[:9]

    together_ND = features(prepared.host, records, batch_size=9)

    alone_ND = features(prepared.host, records, batch_size=1)
    np.testing.assert_allclose(together_ND, alone_ND, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(alone_ND, axis=1), 1.0, rtol=1e-5)
    assert np.abs(alone_ND[0] - alone_ND[1]).max() > 1e-3


def test_features_are_read_from_the_shelf_the_second_time(prepared: Prepared, tmp_path: Path) -> None:
    """No pass is run, and they are the same; other records are other features."""
    assert prepared.held_out is not None
    done: list[int] = []
    shelf, records = FeatureShelf(folder=tmp_path, tick=done.append), prepared.held_out.records
    first_ND = shelf.features(prepared.host, records)
    passes = len(done)

    again_ND = shelf.features(prepared.host, records)

    np.testing.assert_array_equal(first_ND, again_ND)
    assert len(done) == passes > 0
    assert len(shelf.features(prepared.host, records[:5])) == 5


def test_features_in_another_number_format_are_others(prepared: Prepared, tmp_path: Path) -> None:
    """The shelf does not give a base in half precision what one in float32 has left there; they are near."""
    assert prepared.held_out is not None
    shelf, records = FeatureShelf(folder=tmp_path), prepared.held_out.records[:9]
    full_ND = shelf.features(prepared.host, records)

    half_ND = shelf.features(prepared_from(dataclasses.replace(TINY, dtype="bfloat16")).host, records)

    assert not np.array_equal(full_ND, half_ND)
    np.testing.assert_allclose(full_ND, half_ND, atol=0.02)


def test_the_classifier_is_that_of_another_solver() -> None:
    """SciPy's, on the same objective, to five digits of the logits' differences; control: another penalty."""
    rng = np.random.default_rng(5)
    x_ND = rng.normal(size=(60, 4)).astype(np.float32)
    label_N = (x_ND @ rng.normal(size=(4, 3)) + rng.normal(size=(60, 3))).argmax(1)

    def objective(flat: np.ndarray, penalty: float) -> float:
        weights, bias = flat[:12].reshape(4, 3), flat[12:]
        logits = x_ND.astype(np.float64) @ weights + bias
        logits -= logits.max(1, keepdims=True)
        picked = logits[np.arange(60), label_N] - np.log(np.exp(logits).sum(1))
        return float(-picked.sum() + penalty / 2 * ((weights**2).sum() + 1e-3 * (bias**2).sum()))

    ours = fit(x_ND, label_N, classes=3, penalty=1.0)(x_ND)

    def other(penalty: float) -> np.ndarray:
        flat = optimize.minimize(objective, np.zeros(15), args=(penalty,), method="BFGS", options={"gtol": 1e-6}).x
        return x_ND @ flat[:12].reshape(4, 3) + flat[12:]

    np.testing.assert_allclose(ours, other(1.0), atol=1e-3)
    assert np.abs(ours - other(2.0)).max() > 0.05


def test_a_class_without_records_is_possible_and_unlikely() -> None:
    """Its logit is finite and the lowest everywhere near the data."""
    x_ND = np.eye(4, dtype=np.float32)[np.arange(40) % 4]
    label_N = np.arange(40) % 2

    logits_NC = fit(x_ND, label_N, classes=3, penalty=1.0)(x_ND)

    assert np.isfinite(logits_NC).all()
    assert (logits_NC.argmin(1) == 2).all()
    assert (logits_NC.argmax(1) == label_N).all()
