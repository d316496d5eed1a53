"""What memory looks like where there is some, and where there is none."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from partsong.simulations.audit.extraction import GUESSING, RIVALS, exposures, mean_exposure, verbatim
from partsong.simulations.audit.memory import remembered
from partsong.simulations.audit.rehearsal import train_with_texts
from partsong.simulations.federation import draft, fresh_adapter
from partsong.simulations.prepare import prepare

Pin = Callable[[int], np.random.Generator]


def test_guessing_has_the_mean_exposure_of_a_uniform_rank() -> None:
    """By summing over all ranks."""
    assert pytest.approx(np.mean([math.log2((RIVALS + 1) / k) for k in range(1, RIVALS + 2)])) == GUESSING


def test_secrets_that_nobody_learned_have_the_exposure_of_guessing(staged: Any, pinned: Pin) -> None:
    """The base model knows none of them, so the estimate is not biased by what random texts look like."""
    stage = staged()
    random = pinned(1)
    trained = train_with_texts(stage.host, (), plan=stage.plan, texts=60, random=random, train=_nothing)

    bits = exposures(stage.host, trained.records, batch_size=64, random=random)

    assert np.all((bits >= 0) & (bits <= 6))
    assert mean_exposure(bits).bits.low < GUESSING < mean_exposure(bits).bits.high


def _nothing(*_: Any, **__: Any) -> Any:
    """Train nothing."""


def test_training_without_privacy_is_found_out(configured: Any, pinned: Pin) -> None:
    """Random texts that were seen often are told from those left out, rank first and come back word for word."""
    overfit = (
        "sites=1",
        "cohort.minimum=1",
        "secure_sum=off",
        "rounds=1",
        "training.steps_per_round=50",
        "training.learning_rate=0.03",
    )
    prepared = prepare(configured(*overfit, "seed=null", "privacy.sampling_rate=1", "adapter.r=16"))
    host, random = prepared.host, pinned(2)
    start_P, frozen_F = fresh_adapter(prepared)
    host.put(frozen_F, trained=False)
    host.put(start_P)
    plan, _ = draft(prepared, tuple(sorted(prepared.sites)), run="audit")

    trained = train_with_texts(host, (), plan=plan, texts=24, random=random)
    found = remembered(host, trained, batch_size=64, random=random)

    assert all(attack.auc.low > 0.9 for attack in found.attacks)
    assert found.exposure["in"].bits.low > 4 > found.exposure["out"].bits.high
    assert found.verbatim["in"].found > 0 == found.verbatim["out"].found
    assert np.array_equal(host.take(), start_P)


def test_verbatim_counts_whole_secrets() -> None:
    """With the interval of a frequency."""
    found = verbatim(np.array([True, False, False, False]))

    assert (found.secrets, found.found, found.part.value) == (4, 1, 0.25)
    assert found.part.low < 0.25 < found.part.high
