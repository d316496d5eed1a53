"""One site's part of a round."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from partsong.client.data.batch import pad
from partsong.client.data.encode import Record
from partsong.client.dp.sampler import PoissonSampler, SeededRandomness, SystemRandomness
from partsong.client.encoders.encoder import LocalUpdate, Progress
from partsong.client.model.host import ModelHost
from partsong.client.training.train import TrainingFailed, score, train_round
from partsong.common.config import TrainingConfig
from partsong.common.errors import ModelError, Refused
from partsong.common.privacy.terms import DpPlan

MakeHost = Callable[..., ModelHost]
MakeRecords = Callable[..., tuple[Record, ...]]
MakeDp = Callable[..., DpPlan]
LENGTHS = (9, 3, 6, 2, 12, 5, 7, 4)


def train(host: ModelHost, records: tuple[Record, ...], *, rate: float = 0.7, **changes: Any) -> LocalUpdate:
    """Train from the adapter that is on the host, with repeatable samples."""
    dp, randomness = changes.pop("dp", None), changes.pop("randomness", SeededRandomness(b"train"))
    on_step = changes.pop("on_step", lambda _: None)
    settings = {"steps_per_round": 3, "optim": "sgd", "learning_rate": 0.5} | changes
    return train_round(
        host,
        records,
        sampling_rate=rate,
        training=TrainingConfig(**settings),
        dp=dp,
        randomness=randomness,
        on_step=on_step,
    )


def test_a_round_is_what_a_loop_by_hand_gives(make_host: MakeHost, make_records: MakeRecords) -> None:
    """Poisson samples, sum of gradients over the expected batch, plain SGD: against torch, record by record."""
    host, records = make_host(), make_records(LENGTHS)
    reference = make_host()
    sampler = PoissonSampler(len(records), 0.7, randomness=SeededRandomness(b"train"))
    start_P = reference.take()
    for _ in range(3):
        drawn = sampler.sample()
        grads = [torch.zeros_like(p) for p in reference.trainable()]
        for i in drawn:
            loss = reference.loss_B(pad([records[i]], pad_id=reference.pad_id))[0]
            for total, g in zip(grads, torch.autograd.grad(loss, reference.trainable()), strict=True):
                total.add_(g)
        with torch.no_grad():
            for p, g in zip(reference.trainable(), grads, strict=True):
                p.sub_(0.5 * g / (0.7 * len(records)))

    update = train(host, records)

    expected_P = reference.take() - start_P
    assert np.abs(update.update_P - expected_P).max() < 1e-5 * np.abs(expected_P).max()
    assert np.abs(expected_P).max() > 1e-3
    assert (host.take() - start_P == update.update_P).all()


def test_grouping_by_length_and_the_size_of_a_pass_do_not_change_the_update(
    make_host: MakeHost, make_records: MakeRecords
) -> None:
    """Passes are a matter of speed; another sample is another update."""
    records = make_records(LENGTHS)
    kinds: list[dict[str, Any]] = [
        {"group_by_length": grouped, "per_device_train_batch_size": size}
        for grouped in (True, False)
        for size in (1, 3)
    ]

    updates = [train(make_host(), records, **kind).update_P for kind in kinds]
    other = train(make_host(), records, randomness=SeededRandomness(b"other")).update_P

    largest = np.abs(updates[0]).max()
    assert all(np.abs(u - updates[0]).max() < 1e-5 * largest for u in updates)
    assert np.abs(other - updates[0]).max() > 1e-2 * largest


def refuse_more_than(host: ModelHost, most: int, seen: list[int]) -> None:
    """Run out of memory, as the allocator says it, in passes of more than `most` records."""

    def hook(_module: Any, _args: Any, kwargs: Any, _out: Any) -> None:
        size = len(kwargs["input_ids"])
        seen.append(size)
        if size > most:
            raise torch.OutOfMemoryError("CUDA out of memory")

    host.model.register_forward_hook(hook, with_kwargs=True)


@pytest.mark.parametrize("most", [1, 2, 3])
def test_memory_running_out_halves_the_pass_and_changes_nothing_else(
    make_host: MakeHost, make_records: MakeRecords, most: int
) -> None:
    """The update is that of a machine with enough memory; the sample is not cut."""
    records, plenty, small = make_records(LENGTHS), make_host(), make_host()
    seen: list[int] = []
    expected = train(plenty, records)
    refuse_more_than(small, most, seen)

    update = train(small, records)

    assert max(seen) > most
    assert sum(s for s in seen if s <= most) == expected.visits == update.visits
    assert np.abs(update.update_P - expected.update_P).max() < 1e-5 * np.abs(expected.update_P).max()


@pytest.mark.parametrize("engine", ["hooks", "flat"])
def test_memory_running_out_is_survived_under_privacy(
    make_host: MakeHost, make_records: MakeRecords, make_dp: MakeDp, engine: str
) -> None:
    """Per-record gradients of the interrupted pass are dropped, not counted twice."""
    records, host, seen = make_records(LENGTHS), make_host(), list[int]()
    refuse_more_than(host, 2, seen)
    told: list[Progress] = []

    update = train(
        host, records, rate=1.0, dp=make_dp(engine=engine, sampling_rate=1.0), randomness=SystemRandomness(),
        learning_rate=1e-9, on_step=told.append,
    )  # fmt: skip

    assert max(seen) > 2
    exact = score(make_host(), records, batch_size=4).loss_N.mean()
    assert [p.local_loss for p in told] == pytest.approx([exact] * 3, rel=1e-4)
    assert update.visits == 3 * len(records)
    assert update.nonfinite == 0


def test_a_size_that_did_not_fit_is_not_tried_again(make_host: MakeHost, make_records: MakeRecords) -> None:
    """Once halved, passes stay small: for the rest of the sample, the round and the rounds to come on this host."""
    host, records, seen = make_host(), make_records((9,) * 12), list[int]()
    refuse_more_than(host, 3, seen)

    first = train(host, records, rate=1.0)

    assert [s for s in seen if s > 3] == [12, 6]
    assert first.visits == sum(s for s in seen if s <= 3) == 36
    seen.clear()
    assert train(host, records, rate=1.0).visits == sum(seen) == 36
    assert max(seen) == 3


def test_memory_for_not_even_one_record_is_the_users_to_mend(make_host: MakeHost, make_records: MakeRecords) -> None:
    """The error says what to lower."""
    host = make_host()
    refuse_more_than(host, 0, [])

    with pytest.raises(ModelError, match=r"found none left for a single record.*max_length"):
        train(host, make_records(LENGTHS))


def test_another_runtime_error_is_not_taken_for_memory(make_host: MakeHost, make_records: MakeRecords) -> None:
    """Control: only a lack of memory is handled by halving."""
    host = make_host()

    def broken(*_: Any) -> None:
        raise RuntimeError("index out of range")

    host.model.register_forward_hook(broken)

    with pytest.raises(RuntimeError, match="index out of range"):
        train(host, make_records(LENGTHS))


def plant_nan(host: ModelHost) -> None:
    """Damage one weight of the base."""
    model: Any = host.model
    with torch.no_grad():
        model.get_base_model().model.norm.weight[0] = torch.nan


def test_a_loss_that_is_not_a_number_gives_no_update(make_host: MakeHost, make_records: MakeRecords) -> None:
    """TrainingFailed, and the text tells nothing but what to lower."""
    host = make_host()
    plant_nan(host)

    with pytest.raises(TrainingFailed, match=r"not finite.*lower training\.learning_rate"):
        train(host, make_records(LENGTHS))


def test_under_privacy_a_record_that_is_not_finite_counts_as_zero(
    make_host: MakeHost, make_records: MakeRecords, make_dp: MakeDp
) -> None:
    """Whether a record breaks the model must not be visible: the round ends as usual, and the site is told."""
    host = make_host()
    plant_nan(host)

    update = train(
        host, make_records(LENGTHS), rate=1.0, dp=make_dp(sampling_rate=1.0), randomness=SystemRandomness()
    )  # fmt: skip

    assert update.nonfinite == 3 * len(LENGTHS)
    assert np.isfinite(update.update_P).all()


@pytest.mark.parametrize("optim", ["sgd", "adamw"])
def test_empty_samples_are_steps_like_any_other(make_host: MakeHost, make_records: MakeRecords, optim: str) -> None:
    """Without privacy nothing moves; the steps are counted."""
    told: list[Progress] = []

    update = train(make_host(), make_records(LENGTHS), rate=1e-9, optim=optim, on_step=told.append)

    assert (update.visits, update.tokens, update.loss) == (0, 0, 0.0)
    assert not update.update_P.any()
    assert [(p.step, p.steps, p.local_loss) for p in told] == [(1, 3, 0.0), (2, 3, 0.0), (3, 3, 0.0)]


def test_without_privacy_empty_samples_do_not_water_down_the_loss(
    make_host: MakeHost, make_records: MakeRecords
) -> None:
    """The loss is the mean over the records drawn: most of these samples hold nobody."""
    host, records = make_host(), make_records((9,))
    told: list[Progress] = []

    update = train(host, records, rate=0.2, steps_per_round=30, learning_rate=1e-9, on_step=told.append)

    exact = float(score(make_host(), records, batch_size=1).loss_N[0])
    assert 0 < update.visits < 20
    assert update.loss == pytest.approx(exact, rel=1e-5)
    assert np.mean([p.local_loss for p in told]) < 0.7 * exact


@pytest.mark.parametrize("engine", ["hooks", "flat"])
def test_under_privacy_an_empty_sample_is_noise(
    make_host: MakeHost, make_records: MakeRecords, make_dp: MakeDp, engine: str
) -> None:
    """An observer of the update cannot tell that nobody was drawn."""
    dp = make_dp(sampling_rate=1e-9, engine=engine)

    update = train(make_host(), make_records(LENGTHS), rate=1e-9, dp=dp, randomness=SystemRandomness())

    assert update.visits == 0
    assert (update.update_P != 0).mean() > 0.99


def test_a_repeatable_sample_is_refused_under_privacy(
    make_host: MakeHost, make_records: MakeRecords, make_dp: MakeDp
) -> None:
    """Whoever wires a site with seeded samples into a private plan is stopped before a record is read."""
    host = make_host()
    before_P = host.take()

    with pytest.raises(Refused, match="predictable_sample"):
        train(host, make_records(LENGTHS), dp=make_dp(sampling_rate=0.7), randomness=SeededRandomness(b"x"))

    assert (host.take() == before_P).all()


@pytest.mark.parametrize("engine", ["hooks", "flat"])
def test_base_weights_do_not_change_and_the_model_is_left_as_it_was(
    make_host: MakeHost, make_records: MakeRecords, make_dp: MakeDp, engine: str
) -> None:
    """After a private round the next one, of another site perhaps, finds base, frozen part and hooks untouched."""
    host, records = make_host(), make_records(LENGTHS)
    before = {n: v.clone() for n, v in host.model.state_dict().items()}

    train(host, records, dp=make_dp(sampling_rate=0.7, engine=engine), randomness=SystemRandomness())

    after = host.model.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(".lora_B." in name for name in changed)
    assert not host.model.training
    fresh = make_host()
    host.put(fresh.take())
    assert (train(host, records).update_P == train(fresh, records).update_P).all()


def test_scores_come_in_the_order_of_the_records(make_host: MakeHost, make_records: MakeRecords) -> None:
    """Sorting by length is undone; no record, no score."""
    host, records = make_host(), make_records(LENGTHS)

    scores = score(host, records, batch_size=3)

    alone = [float(score(host, [r], batch_size=1).loss_N[0]) for r in records]
    assert scores.loss_N == pytest.approx(alone, rel=1e-5)
    assert score(host, [], batch_size=3).loss_N.shape == (0,)
