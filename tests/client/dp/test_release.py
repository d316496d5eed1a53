"""The noise of a step, measured where it is used: through the real optimizer, on empty batches."""

import dataclasses
import subprocess
import sys

import pytest
import torch
from scipy import stats
from torch import nn

from partsong.client.dp import release as module
from partsong.client.dp.engine import private_stepper
from partsong.client.dp.release import noisy
from partsong.client.dp.settings import DpSettings

SIDE = 680
"""A layer of 680 x 680 = 462,400 weights: a 1 % error of the deviation is 9.6 standard errors."""

CHOSEN = DpSettings(
    clip_norm=0.5,
    clipping="abadi",
    noise_multiplier=2.0,
    sampling_rate=0.1,
    expected_batch=4.0,
    loss_clip=8.0,
    loss_noise_multiplier=3.0,
    engine="flat",
)


def released(steps: int = 1, *, chosen: DpSettings = CHOSEN) -> tuple[list[torch.Tensor], list[float]]:
    """Gradients and losses of empty logical batches: noise and nothing else."""
    model = nn.Sequential(nn.Linear(SIDE, SIDE, bias=False)).train()
    weight = model[0].weight
    stepper = private_stepper(model, torch.optim.SGD([weight], lr=1.0), chosen)
    moves, losses = [], []
    for _ in range(steps):
        before = weight.detach().clone()
        losses.append(stepper.step().noisy_loss_mean)
        moves.append((before.double() - weight.detach().double()).flatten())
    return moves, losses


def in_band(values: torch.Tensor, *, deviation: float) -> bool:
    low, high = stats.chi2.ppf([1e-6, 1 - 1e-6], len(values))
    return bool(low < float((values / deviation).square().sum()) < high)


def test_an_empty_step_moves_by_noise_times_clip_over_expected_batch() -> None:
    """The deviation is 2.0 * 0.5 / 4.0; one percent more or less is told apart."""
    ((move,), _) = released()

    assert in_band(move, deviation=0.25)
    assert not in_band(move, deviation=0.25 * 1.01)
    assert not in_band(move, deviation=0.25 / 1.01)


@pytest.mark.parametrize("noise", ["gaussian", "discrete"])
def test_the_noise_of_a_step_is_normal(noise: str) -> None:
    """Kolmogorov-Smirnov at one in a million; a fiftieth of a deviation off its place fails it."""
    ((move,), _) = released(chosen=dataclasses.replace(CHOSEN, noise=noise))

    standard = move.numpy() / 0.25

    assert stats.kstest(standard, "norm").pvalue > 1e-6
    assert stats.kstest(standard + 0.02, "norm").pvalue < 1e-6


def test_discrete_noise_has_the_same_size_and_stays_on_its_grid() -> None:
    """The same band; and every released value is a whole number of grid steps."""
    chosen = dataclasses.replace(CHOSEN, noise="discrete")

    ((move,), _) = released(chosen=chosen)

    assert in_band(move, deviation=0.25)
    assert not in_band(move, deviation=0.25 * 1.01)
    value_N = noisy(torch.linspace(-3, 3, 1000, dtype=torch.float64), std=1.0, kind="discrete")
    assert bool((value_N * 2**20 == (value_N * 2**20).round()).all())


def test_discrete_noise_is_centred_on_the_sum() -> None:
    """The mean of many releases of one value is that value, to within rounding and 5 standard errors."""
    value = 0.3
    drawn = noisy(torch.full((100_000,), value, dtype=torch.float64), std=1.0, kind="discrete")

    assert abs(float(drawn.mean()) - value) < 5 / 100_000**0.5


def test_the_released_loss_carries_its_own_noise() -> None:
    """Over 400 empty steps: deviation 3.0 * 8.0 / 4.0 on each, within the 99.99 % band."""
    model = nn.Sequential(nn.Linear(2, 2, bias=False)).train()
    stepper = private_stepper(model, torch.optim.SGD(model.parameters(), lr=1e-3), CHOSEN)

    losses = [stepper.step().noisy_loss_mean for _ in range(400)]

    assert in_band(torch.tensor(losses, dtype=torch.float64), deviation=6.0)


def test_steps_share_no_noise_with_one_another() -> None:
    """Correlation of successive steps stays within 5 standard errors; the very same noise would give 1."""
    (first, second), _ = released(2)

    assert abs(float(torch.corrcoef(torch.stack((first, second)))[0, 1])) < 5 / SIDE


@pytest.mark.parametrize("parts", [1, 4])
def test_noise_is_added_once_however_many_passes(parts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A logical batch in four passes draws as much noise as in one: one vector and one loss per release."""
    counts = []
    draw = module.standard_normal
    monkeypatch.setattr(module, "standard_normal", lambda count: counts.append(count) or draw(count))
    model = nn.Sequential(nn.Linear(3, 3, bias=False)).train()
    stepper = private_stepper(model, torch.optim.SGD(model.parameters(), lr=1.0), CHOSEN)

    for inputs in torch.randn(8, 1, 3).chunk(parts):
        stepper.accumulate(model(inputs).square().mean((1, 2)))
    stepper.step()

    assert counts == [3 * 3, 1]


PROGRAM = """
import torch
from partsong.client.dp.noise import standard_normal
torch.manual_seed(0)
print(standard_normal(4).tolist())
"""


def test_two_processes_and_two_resumptions_never_share_noise() -> None:
    """Each start of the same program with the same seed draws other noise."""
    outputs = {
        subprocess.run([sys.executable, "-P", "-c", PROGRAM], check=True, capture_output=True, text=True).stdout
        for _ in range(2)
    }

    assert len(outputs) == 2


def test_nothing_of_the_noise_is_in_the_state_to_save() -> None:
    """A resumed run cannot repeat what was never kept."""
    model = nn.Sequential(nn.Linear(2, 2, bias=False)).train()
    stepper = private_stepper(model, torch.optim.SGD(model.parameters(), lr=1.0), CHOSEN)
    stepper.step()

    state = stepper._optimizer.state_dict()

    assert set(state) == {"state", "param_groups"}
    assert stepper._optimizer.generator is None
    assert not stepper._optimizer.sum_P.any()
