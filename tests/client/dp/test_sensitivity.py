"""Removing one record moves the released sums by no more than the clip, whatever that record is."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from partsong.client.dp.clipping import clip_weights
from partsong.client.dp.engine import private_stepper

CLIP, LOSS_CLIP, SLACK = 0.05, 8.0, 1 + 1e-5
ENGINES = ["flat", "books", "hooks"]


def attach(kit, model, engine: str, clipping: str = "abadi", clip: float = CLIP):
    chosen = kit.settings(
        clip_norm=clip,
        loss_clip=LOSS_CLIP,
        clipping=clipping,
        engine="hooks" if engine == "hooks" else "flat",
    )
    optimizer = torch.optim.SGD(kit.trainable(model), lr=0.1)
    return private_stepper(model, optimizer, chosen, buffer_limit_bytes=0 if engine == "books" else 1 << 30)


def sums(stepper, loss_B) -> tuple[torch.Tensor, float]:
    """What a step would release before noise."""
    stepper.accumulate(loss_B)
    result = stepper._optimizer.sum_P.double().clone(), stepper._optimizer.loss_sum
    stepper._optimizer.sum_P.zero_()
    stepper._optimizer.loss_sum = 0.0
    return result


def leave_one_out(kit, model, stepper, batch, losses) -> tuple[list[float], list[float]]:
    whole, loss = sums(stepper, losses(model, batch))
    gradient_moves, loss_moves = [], []
    for out in range(len(batch)):
        rest = [i for i in range(len(batch)) if i != out]
        without, loss_without = sums(stepper, losses(model, batch.take(rest)))
        gradient_moves.append(float((whole - without).norm()))
        loss_moves.append(abs(loss - loss_without))
    return gradient_moves, loss_moves


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("clipping", ["abadi", "autos"])
@pytest.mark.parametrize("poison", [1.0, 1e6, 1e25, float("inf"), float("nan"), -3.0])
def test_no_record_moves_the_sums_by_more_than_its_clip(kit, engine: str, clipping: str, poison: float) -> None:
    """Leave-one-out over records of very unequal length, one of them scaled, infinite or NaN."""
    model, batch = kit.tiny(), kit.unequal((24, 2, 2, 3, 2))
    stepper = attach(kit, model, engine, clipping)

    def losses(model, batch):
        longest = batch.mask.sum(1) == 24
        return kit.losses(model, batch) * torch.where(longest, poison, 1.0)

    gradient_moves, loss_moves = leave_one_out(kit, model, stepper, batch, losses)

    assert max(gradient_moves) <= CLIP * SLACK
    assert max(loss_moves) <= LOSS_CLIP * SLACK
    assert max(gradient_moves) > 0.5 * CLIP


@pytest.mark.parametrize("engine", ["flat", "hooks"])
def test_a_mean_over_the_batch_fails_the_same_test(kit, engine: str) -> None:
    """The control: Hugging Face's loss, cut into a vector so that no guard sees it, moves by several clips."""
    model, batch = kit.tiny(), kit.unequal((24, *[2] * 16))
    stepper = attach(kit, model, engine, clip=0.5)

    def coupled(model, batch):
        counts = (batch.labels[:, 1:] != -100).sum(1)
        return kit.losses(model, batch) * counts * len(batch) / counts.sum()

    gradient_moves, _ = leave_one_out(kit, model, stepper, batch, coupled)

    assert max(gradient_moves) > 1.5 * 0.5


@pytest.mark.parametrize("engine", ["flat", "hooks"])
def test_without_clipping_the_same_test_fails(kit, engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control on the clip itself."""
    model, batch = kit.tiny(), kit.unequal((24, 2, 2))
    stepper = attach(kit, model, engine)
    unclipped = "partsong.client.dp.optimizer.clip_weights"
    monkeypatch.setattr(unclipped, lambda norm_B, **_: torch.ones_like(norm_B))

    gradient_moves, _ = leave_one_out(kit, model, stepper, batch, kit.losses)

    assert max(gradient_moves) > 2 * CLIP


def test_under_autocast_the_bound_holds_all_the_same(kit) -> None:
    """Norm and sum see the same float32 values, also where the pass ran in bfloat16."""
    model, batch = kit.tiny(), kit.unequal((24, 2, 2, 3))
    for engine in ENGINES:
        stepper = attach(kit, model, engine)
        for row in range(len(batch)):
            with torch.autocast("cpu", torch.bfloat16):
                loss_B = kit.losses(model, batch.take([row]))
            alone, _ = sums(stepper, loss_B)
            assert float(alone.norm()) <= CLIP * SLACK
        stepper.close()


@settings(deadline=None)
@given(
    norms=st.lists(
        st.one_of(st.floats(0, 2.0**127, width=32), st.just(float("nan")), st.just(float("inf"))), min_size=1
    ),
    clip=st.floats(1e-3, 1e3),
    clipping=st.sampled_from(["abadi", "autos"]),
)
def test_weight_times_norm_never_exceeds_the_clip(norms: list[float], clip: float, clipping: str) -> None:
    """For any norm at all; what is not finite weighs nothing."""
    norm_B = torch.tensor(norms, dtype=torch.float32)

    weight_B = clip_weights(norm_B, clip_norm=clip, clipping=clipping)

    finite = norm_B.isfinite()
    assert bool((weight_B[finite].double() * norm_B[finite].double() <= clip * (1 + 1e-6)).all())
    assert bool((weight_B[~finite] == 0).all())
    assert bool(weight_B.isfinite().all())


def test_small_gradients_pass_unchanged_under_abadi() -> None:
    """Below the clip the weight is exactly 1, above it the result has exactly the clip's norm."""
    weight_B = clip_weights(torch.tensor([0.0, 0.5, 1.0, 4.0]), clip_norm=1.0, clipping="abadi")

    assert weight_B.tolist() == [1.0, 1.0, 1.0, 0.25]


def test_a_record_is_clipped_as_a_whole(kit) -> None:
    """The bound is on all parameters together: clipping each layer by itself would let more through."""
    model, batch = kit.tiny(), kit.unequal((9,))
    stepper = attach(kit, model, "flat")
    total, _ = sums(stepper, kit.losses(model, batch))

    sizes = [p.numel() for p in kit.trainable(model)]
    per_layer = [float(part.norm()) for part in total.split(sizes)]

    assert float(total.norm()) == pytest.approx(CLIP, rel=1e-5)
    assert sum(n > 0 for n in per_layer) == len(sizes) > 1
