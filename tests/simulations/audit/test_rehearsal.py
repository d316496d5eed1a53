"""Canaries in the real training loop: their gradients are the chosen ones, and nobody else's changes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from partsong.client.data.batch import pad
from partsong.client.model.host import ModelHost
from partsong.common.errors import ConfigError
from partsong.simulations.audit.canaries import CanaryHost, entries, gradient_records
from partsong.simulations.audit.membership import auc
from partsong.simulations.audit.rehearsal import count_units, listen, train_with_texts, watch

Pin = Callable[[int], np.random.Generator]
FIXTURES = Path(__file__).parents[2] / "fixtures"


def gradients(host: ModelHost, loss_B: torch.Tensor) -> np.ndarray:
    """Each record's gradient, (B, P)."""
    rows = []
    for loss in loss_B:
        parts = torch.autograd.grad(loss, host.trainable(), retain_graph=True, allow_unused=True)
        rows.append(
            np.concatenate(
                [
                    np.zeros(p.numel()) if g is None else g.numpy().ravel()
                    for g, p in zip(parts, host.trainable(), strict=True)
                ]
            )
        )
    return np.array(rows)


@pytest.mark.parametrize("overrides", [(), ("adapter=fedit",)], ids=["ffa", "fedit"])
def test_a_canary_pushes_its_entry_and_leaves_other_records_alone(staged: Any, overrides: tuple[str, ...]) -> None:
    """An included canary has the one gradient it is made for, a blank one none, and records have their own."""
    stage = staged(*overrides)
    host, records = stage.host, stage.prepared.sites["site-1"].records[:3]
    chosen, included_M = entries(host, count=4), np.array([True, False, True, True])
    canary_host = CanaryHost(host, chosen=chosen, included_M=included_M, push=7.0, loss=5.0)
    batch = pad((*records, *gradient_records(host, count=4)), pad_id=host.pad_id)
    with host.training():
        own_BP = gradients(host, host.loss_B(pad(records, pad_id=host.pad_id)))

        loss_B = canary_host.loss_B(batch)
        found_BP = gradients(host, loss_B)

    wanted_MP = np.zeros((4, host.layout.size(trained=True)))
    wanted_MP[np.arange(4), [e.place for e in chosen]] = 7.0 * included_M
    assert np.abs(own_BP).max() > 0
    assert np.allclose(found_BP[:3], own_BP, atol=1e-6)
    assert np.array_equal(found_BP[3:], wanted_MP)
    assert loss_B.tolist()[3:] == [5.0, 0.0, 5.0, 5.0]
    assert canary_host.end_sample() == {0, 1, 2, 3}
    assert canary_host.end_sample() == set()


@pytest.mark.parametrize(
    "overrides", [(), ("privacy.engine=hooks",), ("adapter=fedit",)], ids=["flat", "hooks", "fedit"]
)
def test_the_watcher_sees_who_was_in_where_noise_is_small(staged: Any, pinned: Pin, overrides: tuple[str, ...]) -> None:
    """Through the real loop, with either engine; the adapter is back where it was."""
    weak = ("privacy.epsilon=300", "privacy.sampling_rate=0.5", "rounds=2", "training.steps_per_round=4")
    stage = staged(*weak, *overrides)
    before_P = stage.host.take()
    random = pinned(5)

    seen = watch(stage.host, stage.prepared.sites["site-1"].records, plan=stage.plan, canaries=60, random=random)

    assert auc(seen.score_M[seen.included_M], seen.score_M[~seen.included_M]).value > 0.95
    assert (seen.steps, seen.chances) == (8, 480)
    assert seen.draws == pytest.approx(240, abs=55)  # five standard deviations
    assert np.array_equal(stage.host.take(), before_P)


def test_the_watcher_sees_little_through_much_noise(staged: Any, pinned: Pin) -> None:
    """The success above is the noise's doing, not the scorer's."""
    stage = staged("privacy.epsilon=0.1")

    seen = watch(stage.host, stage.prepared.sites["site-1"].records, plan=stage.plan, canaries=60, random=pinned(5))

    found = auc(seen.score_M[seen.included_M], seen.score_M[~seen.included_M])
    assert found.low < 0.5 < found.high


def test_blanks_release_noise_of_the_promised_size(staged: Any, pinned: Pin) -> None:
    """The only thing in the sum is noise, to within what so many values allow."""
    stage = staged()
    pinned(6)

    noise = listen(stage.host, plan=stage.plan)

    assert noise.count == stage.host.layout.size(trained=True) * (stage.plan.steps - 1)
    assert noise.squares / noise.count == pytest.approx(1.0, abs=4 * np.sqrt(2 / noise.count))


def test_a_classifier_is_rehearsed_too(staged: Any, pinned: Pin, classes: Any) -> None:
    """Canaries have no class, and texts have a random one."""
    words = "[injury,skin,ear,spine]"
    stage = staged(
        f"model.source={FIXTURES / 'tiny-bert'}",
        "model.task=classification",
        f"data.path={classes}",
        f"data.labels={words}",
        "adapter.target_modules=[query,value]",
    )
    records, random = stage.prepared.sites["site-1"].records, pinned(7)

    seen = watch(stage.host, records, plan=stage.plan, canaries=30, random=random)
    trained = train_with_texts(stage.host, records, plan=stage.plan, texts=20, random=random)

    assert np.isfinite(seen.score_M).all()
    assert {r.label for r in trained.records} <= {0, 1, 2, 3}
    assert not np.array_equal(trained.adapter_P, trained.start_P)


def test_entries_are_apart_and_where_the_adapter_keeps_them(staged: Any) -> None:
    """Writing to an entry's layer changes the adapter at the entry's place, from the first entry to the last."""
    host = staged("adapter.r=2").host
    size = host.layout.size(trained=True)

    chosen = entries(host, count=9)

    assert [e.place for e in chosen] == np.linspace(0, size - 1, 9).round().tolist()
    for entry in chosen:
        before_P = host.take()
        with torch.no_grad():
            entry.layer.weight[entry.row, entry.column] += 1
        assert np.flatnonzero(host.take() - before_P).tolist() == [entry.place]
    assert [e.place for e in entries(host, count=size)] == list(range(size))


def test_more_canaries_than_numbers_are_refused(staged: Any) -> None:
    """Two canaries on one entry could not be told apart."""
    host = staged("adapter.r=1", "adapter.target_modules=[v_proj]").host

    with pytest.raises(ConfigError, match=r"audit\.canaries: found 5000 for 192 trained numbers"):
        entries(host, count=5000)


def test_texts_that_were_left_out_are_blanked(staged: Any, pinned: Pin) -> None:
    """The number of records does not tell how many canaries are in, and half of them are."""
    stage = staged()
    sizes = []

    def count(host: ModelHost, records: Any, **_: Any) -> Any:
        sizes.append((len(records), sum((r.labels != -100).any() for r in records[60:])))

    trained = train_with_texts(
        stage.host, stage.prepared.sites["site-1"].records, plan=stage.plan, texts=40, random=pinned(8), train=count
    )

    assert sizes == [(100, trained.included_M.sum())] * stage.plan.rounds
    assert 8 < trained.included_M.sum() < 32


def test_canaries_are_units_of_their_own(staged: Any) -> None:
    """Whatever the privacy unit is, each of them is sampled by itself."""
    records = gradient_records(staged().host, count=5)

    assert count_units((*records, *records[:2]), "record") == 7
    assert count_units((*records, *records[:2]), "patient") == 5
