"""A private adapter beside the shared one, and why the two are not trained together under privacy."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from partsong.client.data.batch import pad
from partsong.client.data.encode import Record
from partsong.client.dp.sampler import SeededRandomness
from partsong.client.model.host import ModelHost
from partsong.client.model.load import load
from partsong.common.config import AdapterConfig, ModelConfig, TrainingConfig
from partsong.common.errors import Refused
from partsong.simulations.personal import dressed, train_jointly, train_private

TINY = Path(__file__).parent.parent / "fixtures" / "tiny-llama"
TRAINING = TrainingConfig(steps_per_round=2)


@pytest.fixture
def host() -> Iterator[ModelHost]:
    """A host whose shared adapter is trained already."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    made = load(ModelConfig(source=str(TINY), device="cpu"), AdapterConfig(r=2))
    made.put((0.2 * np.random.default_rng(0).standard_normal(made.take().size)).astype(np.float32))
    yield made
    torch.set_num_threads(threads)


def records() -> tuple[Record, ...]:
    rng = np.random.default_rng(1)
    ids = [rng.integers(3, 1000, 8).astype(np.int32) for _ in range(6)]
    return tuple(Record(input_ids=i, labels=i, label=-1, unit=None) for i in ids)


def loss(host: ModelHost) -> float:
    with torch.no_grad():
        return float(host.loss_B(pad(list(records()), pad_id=host.pad_id)).mean())


def test_the_private_part_learns_and_the_shared_one_stays(host: ModelHost) -> None:
    """It begins as nothing, lowers the loss at home, and when it is taken off everything is as before."""
    shared_P, frozen_F, alone = host.take(), host.take(trained=False), loss(host)

    with dressed(host, rank=3) as personal:
        begun = loss(personal)
        update = train_private(
            personal, records(), sampling_rate=1.0, training=TRAINING, randomness=SeededRandomness(b"private")
        )
        learned = loss(personal)

    assert begun == pytest.approx(alone, abs=1e-5)
    assert learned < alone - 1e-2
    assert np.abs(update.update_P).max() > 1e-3
    assert (host.take() == shared_P).all()
    assert (host.take(trained=False) == frozen_F).all()
    assert loss(host) == pytest.approx(alone, abs=1e-6)
    assert host.trainable() == [p for p in host.model.parameters() if p.requires_grad]


def test_both_at_once_are_refused_under_privacy(host: ModelHost, make_dp: object) -> None:
    """By name, before anything is trained; without privacy the shared part moves."""
    with dressed(host, rank=2) as personal:
        ask = {"sampling_rate": 1.0, "training": TRAINING, "randomness": SeededRandomness(b"both")}
        with pytest.raises(Refused, match="a private factor couples records"):
            train_jointly(personal, host, records(), dp=make_dp(), **ask)  # type: ignore[operator,arg-type]
        moved_P = train_jointly(personal, host, records(), dp=None, **ask)  # type: ignore[arg-type]

    assert np.count_nonzero(moved_P) > 0.9 * moved_P.size


CLIP = 1.0


def clipped_sum(target_N: np.ndarray, *, private: float) -> float:
    """Sum of clipped gradients of a shared number s = 0 that predicts, with a private one added, each record's target."""
    return float(np.clip(private - target_N, -CLIP, CLIP).sum())


def test_a_private_part_of_the_forward_pass_breaks_the_bound_of_one_record() -> None:
    """Leave one out of 68: with a private mean fitted to the same records, the sum moves by 67 clips and more.

    All targets are 1 but one of 500. The private part is their mean: with the odd one it is above every other target,
    so all of them pull down; without it nothing pulls. Absent from the forward pass, one record moves the sum by a clip.
    """
    target_N = np.append(np.ones(67), 500.0)
    without_N = target_N[:-1]

    joint = clipped_sum(target_N, private=target_N.mean()) - clipped_sum(without_N, private=without_N.mean())
    apart = clipped_sum(target_N, private=0.0) - clipped_sum(without_N, private=0.0)

    assert abs(joint) >= 66 * CLIP
    assert abs(apart) <= CLIP
