"""Steps clip, noise, account and step as they say, with either source of gradients."""

import pytest
import torch

from partsong.client.dp.engine import plain_stepper, private_stepper
from partsong.common.errors import Refused
from partsong.common.privacy.accounting import StepEvents, joint_multiplier

ENGINES = ["hooks", "flat"]


def sgd(model, lr: float = 0.1):
    return torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=lr)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("clipping", ["abadi", "autos"])
@pytest.mark.parametrize("ffa", [False, True])
def test_the_clipped_sum_is_that_of_the_microbatch_loop(kit, engine: str, clipping: str, *, ffa: bool) -> None:
    """Clipping each record's own gradient and adding gives the same vector, to float32 rounding."""
    model, batch = kit.tiny(ffa=ffa), kit.unequal()
    rows = kit.loop(model, batch)
    norms = rows.norm(dim=1)
    clip = float(norms.median())
    weights = clip / norms.clamp(min=clip) if clipping == "abadi" else clip / (norms + 0.01)
    stepper = private_stepper(model, sgd(model), kit.settings(engine=engine, clipping=clipping, clip_norm=clip))

    stepper.accumulate(kit.losses(model, batch))

    expected = weights @ rows
    assert (stepper._optimizer.sum_P - expected).norm() < 1e-5 * expected.norm()
    assert not torch.allclose(rows.sum(0), expected, rtol=1e-2)


@pytest.mark.parametrize("engine", ENGINES)
def test_many_physical_batches_are_one_logical_batch(kit, engine: str) -> None:
    """Cutting a sample into passes changes neither sum, count nor accounting."""
    model, batch = kit.tiny(), kit.unequal()
    stepper = private_stepper(model, sgd(model), kit.settings(engine=engine))
    stepper.accumulate(kit.losses(model, batch))
    whole, loss = stepper._optimizer.sum_P.clone(), stepper._optimizer.loss_sum
    stepper._optimizer.sum_P.zero_()
    stepper._optimizer.loss_sum = 0.0
    stepper._tally.close()

    for part in ([0, 1], [2], [3, 4]):
        stepper.accumulate(kit.losses(model, batch.take(part)))

    assert (stepper._optimizer.sum_P - whole).norm() < 1e-5 * whole.norm()
    assert stepper._optimizer.loss_sum == pytest.approx(loss, rel=1e-6)
    assert stepper.step().local.units == 5
    assert [e.steps for e in stepper.events] == [1]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_step_releases_sum_plus_noise_over_expected_batch(kit, engine: str) -> None:
    """With noise of a ten-thousandth, one SGD step is the clipped sum / expected batch, the loss the clipped mean."""
    model, batch = kit.tiny(), kit.unequal()
    before = torch.cat([p.detach().clone().flatten() for p in kit.trainable(model)])
    tiny_noise = {"noise_multiplier": 1e-4, "loss_noise_multiplier": 1e-6}
    stepper = private_stepper(model, sgd(model, lr=1.0), kit.settings(engine=engine, **tiny_noise))
    loss_B = kit.losses(model, batch)
    stepper.accumulate(loss_B)
    total = stepper._optimizer.sum_P.clone()

    result = stepper.step()

    moved = before - torch.cat([p.detach().flatten() for p in kit.trainable(model)])
    torch.testing.assert_close(moved, total / 5.0, atol=2e-4, rtol=0)
    assert result.noisy_loss_mean == pytest.approx(float(loss_B.detach().sum()) / 5.0, abs=1e-4)
    assert result.local.loss_mean == pytest.approx(float(loss_B.detach().mean()), rel=1e-5)
    assert not stepper._optimizer.sum_P.any()


@pytest.mark.parametrize("engine", ENGINES)
def test_an_empty_logical_batch_is_noised_stepped_and_accounted(kit, engine: str) -> None:
    """A Poisson sample may be empty; nobody may see that it was."""
    model = kit.tiny()
    before = [p.detach().clone() for p in kit.trainable(model)]
    stepper = private_stepper(model, sgd(model), kit.settings(engine=engine))

    result = stepper.step()

    assert all(not torch.equal(old, p) for old, p in zip(before, kit.trainable(model), strict=True))
    assert result.noisy_loss_mean != 0.0
    assert (result.local.units, result.local.loss_mean) == (0, 0.0)
    assert sum(e.steps for e in stepper.events) == 1


@pytest.mark.parametrize("engine", ENGINES)
def test_what_is_recorded_is_what_was_done(kit, engine: str) -> None:
    """Three steps of one setting are one event with the joint multiplier of both releases."""
    model, batch = kit.tiny(), kit.unequal()
    stepper = private_stepper(model, sgd(model), kit.settings(engine=engine))

    for part in ([0, 1, 2], [], [3]):
        if part:
            stepper.accumulate(kit.losses(model, batch.take(part)))
        stepper.step()

    joint = joint_multiplier(1.0, 4.0)
    assert stepper.events == (StepEvents(sampling_rate=0.1, noise_multiplier=joint, steps=3),)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("poison", [float("nan"), float("inf"), 1e30])
def test_a_record_that_is_not_finite_counts_as_zero(kit, engine: str, poison: float) -> None:
    """It changes nothing but the local count, and the others are added as if it were absent."""
    model, batch = kit.tiny(), kit.unequal()
    stepper = private_stepper(model, sgd(model), kit.settings(engine=engine))
    stepper.accumulate(kit.losses(model, batch.take([0, 2, 3, 4])))
    clean, loss = stepper._optimizer.sum_P.clone(), stepper._optimizer.loss_sum
    stepper._optimizer.sum_P.zero_()
    stepper._optimizer.loss_sum = 0.0
    stepper._tally.close()
    scale = torch.ones(5)
    scale[1] = poison

    stepper.accumulate(kit.losses(model, batch) * scale)

    assert (stepper._optimizer.sum_P - clean).norm() < 1e-5 * clean.norm()
    assert stepper._optimizer.loss_sum == pytest.approx(loss, rel=1e-6)
    assert stepper.step().local.nonfinite_units == 1


@pytest.mark.parametrize("engine", ENGINES)
def test_the_hugging_face_loss_is_refused_by_name(kit, engine: str) -> None:
    """A scalar mean over the batch couples records; nothing of it is added."""
    model, batch = kit.tiny(), kit.unequal()
    stepper = private_stepper(model, sgd(model), kit.settings(engine=engine))
    loss = model(input_ids=batch.tokens, attention_mask=batch.mask, labels=batch.labels).loss

    with pytest.raises(Refused, match="batch_coupled_loss"):
        stepper.accumulate(loss)

    assert not stepper._optimizer.sum_P.any()


@pytest.mark.parametrize("engine", ENGINES)
def test_fewer_losses_than_records_are_refused(kit, engine: str) -> None:
    """A vector over pairs of records is no loss per record."""
    model, batch = kit.tiny(), kit.unequal((4, 4, 4, 4))
    stepper = private_stepper(model, sgd(model), kit.settings(engine=engine))

    with pytest.raises(Refused, match="batch_coupled_loss"):
        stepper.accumulate(kit.losses(model, batch).view(2, 2).mean(1))

    assert not stepper._optimizer.sum_P.any()


class OutOfMemoryOnce(torch.autograd.Function):
    """Raises in the middle of the backward pass, as a full device would."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, *grads):
        raise torch.OutOfMemoryError


@pytest.mark.parametrize("engine", ENGINES)
def test_a_pass_that_ran_out_of_memory_is_retried_in_halves(kit, engine: str) -> None:
    """The failed pass leaves nothing; its halves then give the sum of the whole."""
    model, batch = kit.tiny(), kit.unequal()
    stepper = private_stepper(model, sgd(model), kit.settings(engine=engine))
    stepper.accumulate(kit.losses(model, batch))
    whole = stepper._optimizer.sum_P.clone()
    stepper._optimizer.sum_P.zero_()
    layer = model.get_submodule("base_model.model.model.layers.0")
    handle = layer.register_forward_hook(lambda _m, _i, out: OutOfMemoryOnce.apply(out))
    with pytest.raises(torch.OutOfMemoryError):
        stepper.accumulate(kit.losses(model, batch))
    handle.remove()
    kit.losses(model, batch)  # a forward pass whose backward pass never came
    stepper.discard_partial()

    stepper.accumulate(kit.losses(model, batch.take([0, 1])))
    stepper.accumulate(kit.losses(model, batch.take([2, 3, 4])))

    assert (stepper._optimizer.sum_P - whole).norm() < 1e-5 * whole.norm()


@pytest.mark.parametrize("engine", ENGINES)
def test_closing_leaves_the_model_as_it_was(kit, engine: str) -> None:
    """No hook, class or attribute stays, and the model computes and trains as before."""
    model, batch = kit.tiny(), kit.unequal()

    def face() -> list[object]:
        modules = [(type(m), sorted(vars(m)), list(m._forward_hooks), list(m._backward_hooks)) for m in model.modules()]
        return [modules, [sorted(vars(p)) for p in model.parameters()], list(model.state_dict())]

    before, logits = face(), kit.losses(model, batch)
    stepper = private_stepper(model, sgd(model), kit.settings(engine=engine))
    stepper.accumulate(kit.losses(model, batch))

    stepper.close()

    assert face() == before
    assert torch.equal(kit.losses(model, batch), logits)


@pytest.mark.parametrize("engine", ENGINES)
def test_an_evaluation_in_between_changes_nothing(kit, engine: str) -> None:
    """A forward pass without gradients between two passes of training leaves no trace."""
    model, batch = kit.tiny(), kit.unequal()
    stepper = private_stepper(model, sgd(model), kit.settings(engine=engine))
    stepper.accumulate(kit.losses(model, batch))
    once = stepper._optimizer.sum_P.clone()

    with torch.no_grad():
        kit.losses(model.eval(), batch)
    stepper.accumulate(kit.losses(model.train(), batch))

    assert (stepper._optimizer.sum_P - 2 * once).norm() < 1e-5 * once.norm()


def test_two_runs_do_not_share_noise(kit) -> None:
    """The same torch seed gives different noise: steps take none of it from torch."""
    model = kit.tiny()
    moves = []
    for _ in range(2):
        torch.manual_seed(3)
        stepper = private_stepper(model, sgd(model), kit.settings())
        before = kit.trainable(model)[0].detach().clone()
        stepper.step()
        moves.append(kit.trainable(model)[0].detach() - before)
        stepper.close()

    assert abs(torch.corrcoef(torch.stack([m.flatten() for m in moves]))[0, 1]) < 0.5


def test_adapters_that_do_not_move_stop_the_run(kit) -> None:
    """A wrapped optimizer that steps nothing is found out after the first step."""
    model = kit.tiny()
    optimizer = sgd(model)
    optimizer.step = lambda *_: None
    stepper = private_stepper(model, optimizer, kit.settings())

    with pytest.raises(Refused, match="adapter_did_not_move"):
        stepper.step()


def test_a_plain_step_is_ordinary_training(kit) -> None:
    """Without privacy the step equals torch's own on the sum over the expected batch, and the loss is exact."""
    model, batch = kit.tiny(), kit.unequal()
    twin = kit.tiny()
    optimizer = sgd(twin)
    (kit.losses(twin, batch).sum() / 5.0).backward()
    optimizer.step()
    stepper = plain_stepper(model, sgd(model), expected_batch=5.0)
    loss = float(kit.losses(model, batch).detach().mean())

    stepper.accumulate(kit.losses(model, batch.take([0, 1])))
    stepper.accumulate(kit.losses(model, batch.take([2, 3, 4])))
    result = stepper.step()

    for ours, theirs in zip(kit.trainable(model), kit.trainable(twin), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)
    assert result.noisy_loss_mean == pytest.approx(loss, rel=1e-6)
    assert stepper.events == ()


def test_a_plain_empty_batch_steps_on_zero(kit) -> None:
    """Nothing moves under plain SGD, and the loss is given as 0."""
    model = kit.tiny()
    before = [p.detach().clone() for p in kit.trainable(model)]
    stepper = plain_stepper(model, sgd(model), expected_batch=5.0)

    result = stepper.step()

    assert result.noisy_loss_mean == 0.0
    assert all(torch.equal(old, p) for old, p in zip(before, kit.trainable(model), strict=True))
