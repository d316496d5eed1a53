"""The clip that a plan derives: no honest update meets it, and it is not much longer than needed."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from partsong.common.config import TrainingConfig
from partsong.common.privacy.terms import DpPlan
from partsong.common.reach import largest_update

MakeDp = Callable[..., DpPlan]


def moved(training: TrainingConfig, gradients_KP: np.ndarray) -> float:
    """How far torch's AdamW moves under these gradients, step by step."""
    parameter = torch.nn.Parameter(torch.zeros(gradients_KP.shape[1], dtype=torch.float64))
    adam = torch.optim.AdamW(
        [parameter],
        lr=training.learning_rate,
        betas=(training.adam_beta1, training.adam_beta2),
        weight_decay=0.0,
        eps=0.0,
    )
    for gradient in gradients_KP:
        parameter.grad = torch.from_numpy(gradient.copy())
        adam.step()
    return float(parameter.detach().norm())


@settings(max_examples=150, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 12),
    st.sampled_from(["normal", "constant", "rising", "falling", "spike"]),
    st.sampled_from([(0.9, 0.999), (0.0, 0.999), (0.8, 0.95), (0.9, 0.9)]),
)
def test_no_gradients_lead_adam_past_the_clip(seed: int, steps: int, kind: str, betas: tuple[float, float]) -> None:
    """The sealed vector's clip is never met by an honest AdamW update, whatever its gradients."""
    rng = np.random.default_rng(seed)
    base_KP = rng.standard_normal((steps, 7)) * 10.0 ** rng.integers(-6, 6)
    age = np.arange(steps)[:, None]
    gradients_KP = {
        "normal": base_KP,
        "constant": np.repeat(base_KP[:1], steps, axis=0),
        "rising": base_KP[:1] * 1.3**age,
        "falling": base_KP[:1] * 0.7**age,
        "spike": base_KP * np.where(age == steps - 1, 1.0, 1e-6),
    }[kind]
    training = TrainingConfig(
        steps_per_round=steps, learning_rate=0.02, adam_beta1=betas[0], adam_beta2=betas[1], optim="adamw"
    )

    assert moved(training, gradients_KP) <= largest_update(training, None, size=7) * (1 + 1e-9)


def test_steps_times_rate_alone_would_be_passed() -> None:
    """Control: gradients shaped to Adam's weights move it further than one learning rate a step."""
    training = TrainingConfig(steps_per_round=30, learning_rate=0.02, optim="adamw")
    gradients_KP = np.repeat((0.9 / 0.999) ** -np.arange(30.0)[:, None], 7, axis=1)

    far = moved(training, gradients_KP)

    assert 30 * 0.02 * math.sqrt(7) < far <= largest_update(training, None, size=7)


def test_four_steps_with_the_usual_betas_cost_half_a_percent() -> None:
    """The bound costs next to no precision where the demonstration runs; one step is exactly one learning rate."""
    one, four = (TrainingConfig(steps_per_round=k, learning_rate=0.5) for k in (1, 4))

    assert largest_update(one, None, size=9) == pytest.approx(1.5, rel=1e-12)
    assert 1.0 < largest_update(four, None, size=9) / (4 * 1.5) < 1.006


def test_sgd_moves_by_the_clipped_mean_and_its_noise(make_dp: MakeDp) -> None:
    """Worked by hand: 2 steps of rate .5, clip 3, noise 1.6 over 8 records in 4 entries: 2 * .5 * (3 + 1.6*3*2/8)."""
    training = TrainingConfig(steps_per_round=2, learning_rate=0.5, optim="sgd")

    assert largest_update(training, make_dp(clip_norm=3.0, noise_multiplier=1.6), size=4) == pytest.approx(4.2)
    assert largest_update(training, None, size=4) == pytest.approx(1.0)
