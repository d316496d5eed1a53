"""Finished cells on disk, and how a model is scored."""

from pathlib import Path

import numpy as np
import pytest

from partsong.common.config import PartitionConfig
from partsong.common.errors import DataError
from partsong.simulations.studies.corpus import Corpus, Division, Example, divide
from partsong.simulations.studies.outcome import Outcome, Point, Store, scored

DIGEST = "ab" * 32
DONE = Outcome(
    accuracy=0.5,
    macro_recall=0.25,
    own={"a": 0.75},
    rate=0.01,
    visits=7,
    bytes_per_site=1e6,
    curve=(Point(round=1, accuracy=0.1, bytes_per_site=10.0),),
)


def test_a_kept_cell_is_read_back(tmp_path: Path) -> None:
    """As it was; under another digest there is none."""
    store = Store(tmp_path, Outcome)
    store.write("cell", DIGEST, DONE, machine={"cores": 2})

    assert store.read("cell", DIGEST) == DONE
    assert store.read("cell", "cd" * 32) is None
    assert store.read("other", DIGEST) is None


def test_a_cell_that_was_being_written_is_not_there(tmp_path: Path) -> None:
    """What a kill leaves is a file of another name."""
    (tmp_path / f".cell.{DIGEST[:12]}.json.part").write_text('{"sha256": "')

    assert Store(tmp_path, Outcome).read("cell", DIGEST) is None


@pytest.mark.parametrize("text", ["{", "[]", '{"sha256": "x"}', '{"sha256": "x", "outcome": {"accuracy": "high"}}'])
def test_a_damaged_cell_is_refused(tmp_path: Path, text: str) -> None:
    """It is neither played again in silence nor taken for a result."""
    store = Store(tmp_path, Outcome)
    store.write("cell", DIGEST, DONE, machine={})
    next(tmp_path.iterdir()).write_text(text)

    with pytest.raises(DataError):
        store.read("cell", DIGEST)


def test_a_cell_under_another_configurations_name_is_refused(tmp_path: Path) -> None:
    """The first digits agree, the digest does not."""
    store = Store(tmp_path, Outcome)
    store.write("cell", DIGEST, DONE, machine={})

    with pytest.raises(DataError, match="another configuration"):
        store.read("cell", DIGEST[:12] + "00" * 26)


def division() -> Division:
    rows = tuple(Example(text=f"{s}{i}", label=n, site=s) for i, (s, n) in enumerate(["ax", "ax", "ay", "bx"]))
    train = tuple(Example(text=f"{s}{i}", label="x", site=s) for i, s in enumerate("ab" * 10))
    corpus = Corpus(name="x", labels=("x", "y"), train=train, validation=(), test=rows)
    return divide(corpus, PartitionConfig(), sites=None, part="test")


def test_scores_by_hand() -> None:
    """Two of three x and no y: accuracy 1/2, macro recall 1/3; site a has one of its three, site b its one."""
    found = scored(np.array([True, False, False, True]), division())

    assert found.accuracy == 0.5
    assert found.macro_recall == pytest.approx(1 / 3)
    assert found.own == {"a": pytest.approx(1 / 3), "b": 1.0}
